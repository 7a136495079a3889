package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// callLimit bounds one request of our own to the API server.
const callLimit = 10 * time.Second

// tokenLife is the life of ServiceAccount tokens for tests, in seconds: a day, as long as a demo left running.
const tokenLife = 24 * 60 * 60

// CreateServiceAccount makes a ServiceAccount, and its namespace when missing, and returns a token of it that is valid for a day. An
// account that exists already gives a further token.
func (cp *ControlPlane) CreateServiceAccount(ctx context.Context, namespace, name string) (string, error) {
	metadata := func(name string) map[string]any { return map[string]any{"metadata": map[string]string{"name": name}} }
	accounts := "/api/v1/namespaces/" + namespace + "/serviceaccounts"
	if err := cp.create(ctx, "/api/v1/namespaces", metadata(namespace)); err != nil {
		return "", fmt.Errorf("create namespace: %w", err)
	}
	if err := cp.create(ctx, accounts, metadata(name)); err != nil {
		return "", fmt.Errorf("create ServiceAccount: %w", err)
	}
	request := map[string]any{"spec": map[string]any{"expirationSeconds": tokenLife}}
	var answer struct{ Status struct{ Token string } }
	if err := cp.call(ctx, http.MethodPost, accounts+"/"+name+"/token", request, &answer); err != nil {
		return "", fmt.Errorf("token of ServiceAccount: %w", err)
	}
	return answer.Status.Token, nil
}

// create posts an object; one that exists already is as good.
func (cp *ControlPlane) create(ctx context.Context, path string, object any) error {
	err := cp.call(ctx, http.MethodPost, path, object, nil)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusConflict {
		return nil
	}
	return err
}

// call does one request as administrator. in and out are JSON; both may be nil.
func (cp *ControlPlane) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, cp.URL+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+cp.AdminToken)
	request.Header.Set("Content-Type", "application/json")
	response, err := cp.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return &statusError{code: response.StatusCode, request: method + " " + path, body: content}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(content, out)
}

func (cp *ControlPlane) newClient() (*http.Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(cp.CA) {
		return nil, errors.New("no certificate in the cluster's CA")
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}}, nil
}

// statusError is an answer of the API server that is no success.
type statusError struct {
	code    int
	request string
	body    []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: HTTP status %d: %s", e.request, e.code, e.body)
}
