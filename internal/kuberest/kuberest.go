// Package kuberest is a Kubernetes client for the few kinds that agentk itself reads and writes. The generated client of client-go
// knows every kind of every group, and a program that has it is half as large again; the Go types of the core group alone make it a
// tenth larger. So this client knows no kind at all, and whoever uses it declares the few fields it needs.
package kuberest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// New returns a client for the API server of cfg that sends its requests with httpClient, whose transport has the credentials.
// Requests name their path (AbsPath); bodies and answers are JSON, which callers write and read themselves (Send, Answer). Errors of the
// API server are those of apimachinery's package errors.
func New(cfg *rest.Config, httpClient *http.Client) (rest.Interface, error) {
	known := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(known); err != nil {
		return nil, fmt.Errorf("kinds of the Kubernetes API: %w", err)
	}
	metav1.AddToGroupVersion(known, schema.GroupVersion{Version: "v1"}) // the API server's Status
	cfg = rest.CopyConfig(cfg)
	cfg.ContentConfig = rest.ContentConfig{
		ContentType:          runtime.ContentTypeJSON,
		NegotiatedSerializer: serializer.NewCodecFactory(known).WithoutConversion(),
	}
	client, err := rest.UnversionedRESTClientForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("client of the Kubernetes API server: %w", err)
	}
	return client, nil
}

// Send sends object as JSON with request and returns the answer's body.
func Send(ctx context.Context, request *rest.Request, object any) ([]byte, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("object for the Kubernetes API server: %w", err)
	}
	return Answer(request.SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx))
}

// Answer returns the body of a successful answer, and otherwise the error with the API server's own words.
func Answer(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}
