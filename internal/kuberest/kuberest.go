// Package kuberest is a Kubernetes client for the few kinds that agentk itself reads and writes. The generated client of client-go
// knows every kind of every group, and a program that has it is half as large again.
package kuberest

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// New returns a client for the API server of cfg that sends its requests with httpClient, whose transport has the credentials.
// Requests name their path (AbsPath); bodies and answers are JSON, of the kinds of group core. Errors of the API server are those of
// apimachinery's package errors.
func New(cfg *rest.Config, httpClient *http.Client) (rest.Interface, error) {
	known, err := scheme()
	if err != nil {
		return nil, err
	}
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

// scheme knows the kinds that agentk uses, and the API server's Status.
func scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("kinds of the Kubernetes API: %w", err)
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s, nil
}
