package cluster

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/dynamic"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Client makes requests that end with the context it was made for, whatever context they carry themselves.
type Client struct {
	// Dynamic reaches objects of every kind.
	Dynamic dynamic.Interface
	// Mapper is that of the Access.
	Mapper meta.ResettableRESTMapper

	config *rest.Config
	http   *http.Client
	gate   *gate
	base   string // path of the API server's URL
}

// Client returns a client for one run: when ctx ends, requests under way are cut off and further ones fail with ctx's cause.
func (a *Access) Client(ctx context.Context) (*Client, error) {
	g := &gate{ctx: ctx, next: a.transport}
	hc := &http.Client{Transport: g}
	dyn, err := dynamic.NewForConfigAndClient(a.config, hc)
	if err != nil {
		return nil, fmt.Errorf("dynamic client: %w", err)
	}
	server, _, err := rest.DefaultServerUrlFor(a.config)
	if err != nil {
		return nil, fmt.Errorf("address of the Kubernetes API server: %w", err)
	}
	return &Client{Dynamic: dyn, Mapper: a.Mapper, config: a.config, http: hc, gate: g, base: server.Path}, nil
}

// Resource is where objects of a kind are found; the namespace is ignored for kinds of cluster scope.
func (c *Client) Resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	mapping, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot || namespace == "" {
		return c.Dynamic.Resource(mapping.Resource), nil
	}
	return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// ForMapping is the client that the apply library wants for a kind.
func (c *Client) ForMapping(mapping *meta.RESTMapping) (resource.RESTClient, error) {
	gv := mapping.GroupVersionKind.GroupVersion()
	config := rest.CopyConfig(c.config)
	config.ContentConfig = resource.UnstructuredPlusDefaultContentConfig()
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	return rest.RESTClientForConfigAndClient(config, c.http)
}

// Core is the typed client of the core group.
func (c *Client) Core() (*corev1.CoreV1Client, error) {
	return corev1.NewForConfigAndClient(c.config, c.http)
}

// Config and HTTP are for clients of other libraries, bound to the same run.
func (c *Client) Config() (*rest.Config, *http.Client) { return c.config, c.http }

// TakePatchStatus returns the HTTP status of the newest answer to a PATCH and forgets it; zero: there was none since. The apply library
// hides it, but it applies one object after the other and reports each before the next.
func (c *Client) TakePatchStatus() int { return int(c.gate.lastPatch.Swap(0)) }
