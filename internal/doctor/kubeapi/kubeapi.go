// Package kubeapi asks a Kubernetes API server the few questions of the doctor: in JSON over plain HTTP, as the typed clients would
// double the size of agentk.
package kubeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/client-go/rest"
)

// maxAnswer bounds what is read. A list of rules has some ten kilobytes.
const maxAnswer = 4 << 20

// Client asks one API server as one user.
type Client struct {
	base *url.URL
	http *http.Client
}

// New returns a client for a configuration, without its own limits of time: contexts have them.
func New(cfg *rest.Config) (*Client, error) {
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("address of the Kubernetes API server: %w", err)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("access to the Kubernetes API server: %w", err)
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: base, http: client}, nil
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Base is the address of the API server.
func (c *Client) Base() *url.URL { return c.base }

// Answer is what came back.
type Answer struct {
	Code   int
	Header http.Header
	Body   []byte
}

// Do asks; body nil makes it a GET, anything else a POST.
func (c *Client) Do(ctx context.Context, path string, body any) (*Answer, error) {
	method, content := http.MethodGet, []byte(nil)
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
		method = http.MethodPost
	}
	at := *c.base
	at.Path = strings.TrimSuffix(at.Path, "/") + path
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	return &Answer{Code: response.StatusCode, Header: response.Header, Body: content}, nil
}

// Message is what a Kubernetes Status says, or the beginning of another body.
func (a *Answer) Message() string {
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(a.Body, &status) == nil && status.Message != "" {
		return status.Message
	}
	const shown = 160
	text := strings.Join(strings.Fields(string(a.Body)), " ")
	return strings.ToValidUTF8(text[:min(len(text), shown)], "")
}

// Version is the API server's, of an answer to /version; empty if it is none.
func (a *Answer) Version() string {
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	_ = json.Unmarshal(a.Body, &info)
	return info.GitVersion
}

// object is an answer or a question of the authorization API.
type object = map[string]any

// Attributes are of an action somebody may want to do.
type Attributes struct {
	Verb, Group, Resource, Subresource, Namespace, Name string
}

func (a Attributes) String() string {
	text := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		text += "/" + a.Subresource
	}
	if a.Group != "" {
		text += "." + a.Group
	}
	return text
}

// Can asks whether the client's own user may do something (SelfSubjectAccessReview).
func (c *Client) Can(ctx context.Context, what Attributes) (bool, error) {
	a, err := c.Do(ctx, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", object{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": object{"resourceAttributes": object{
			"verb": what.Verb, "group": what.Group, "resource": what.Resource, "subresource": what.Subresource,
			"namespace": what.Namespace, "name": what.Name,
		}},
	})
	if err != nil {
		return false, err
	}
	var review struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	if err := a.into(&review); err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// User is whom the API server takes the client for.
type User struct {
	Name   string   `json:"username"`
	Groups []string `json:"groups"`
}

// Self asks who the client is (SelfSubjectReview).
func (c *Client) Self(ctx context.Context) (User, error) {
	a, err := c.Do(ctx, "/apis/authentication.k8s.io/v1/selfsubjectreviews", object{
		"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
	})
	if err != nil {
		return User{}, err
	}
	var review struct {
		Status struct {
			UserInfo User `json:"userInfo"`
		} `json:"status"`
	}
	err = a.into(&review)
	return review.Status.UserInfo, err
}

// Rule is what may be done with some resources.
type Rule struct {
	Verbs     []string `json:"verbs"`
	APIGroups []string `json:"apiGroups"`
	Resources []string `json:"resources"`
}

// Rules asks what the client's own user may do in a namespace (SelfSubjectRulesReview).
func (c *Client) Rules(ctx context.Context, namespace string) ([]Rule, error) {
	a, err := c.Do(ctx, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", object{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": object{"namespace": namespace},
	})
	if err != nil {
		return nil, err
	}
	var review struct {
		Status struct {
			Rules []Rule `json:"resourceRules"`
		} `json:"status"`
	}
	err = a.into(&review)
	return review.Status.Rules, err
}

func (a *Answer) into(out any) error {
	if a.Code != http.StatusCreated && a.Code != http.StatusOK {
		return fmt.Errorf("the Kubernetes API server answered %d: %s", a.Code, a.Message())
	}
	return json.Unmarshal(a.Body, out)
}
