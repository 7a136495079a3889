// Package cluster is the engine's way to the Kubernetes API server: one shared transport per account that synchronisations are done as,
// and clients whose every request ends with the run it belongs to. The apply library passes no context to its requests, so a run could
// otherwise not be cancelled in the middle of five hundred objects.
package cluster

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// discoveryTimeout bounds one request of discovery.
const discoveryTimeout = 30 * time.Second

// Load reads the way to the API server from a kubeconfig; without one the process runs in a Pod. The library's own rate limit is off:
// the API server's priority and fairness decides, and a bound of five requests a second would make large projects crawl.
func Load(kubeconfig []byte, userAgent string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if len(kubeconfig) == 0 {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration of the Kubernetes API server: %w", err)
	}
	config.QPS = -1
	config.Burst = -1
	config.UserAgent = userAgent
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// Cluster hands out Access per account.
type Cluster struct {
	config *rest.Config

	mu       sync.Mutex // guards accounts
	accounts map[string]*Access
}

// New returns a Cluster reached by config.
func New(config *rest.Config) *Cluster {
	return &Cluster{config: config, accounts: map[string]*Access{}}
}

// As returns the access of a service account, <namespace>/<name>; empty: the engine's own.
func (c *Cluster) As(account string) (*Access, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.accounts[account]; ok {
		return a, nil
	}
	config := rest.CopyConfig(c.config)
	if account != "" {
		as, err := impersonation(account)
		if err != nil {
			return nil, err
		}
		config.Impersonate = as
	}
	a, err := newAccess(config)
	if err != nil {
		return nil, err
	}
	c.accounts[account] = a
	return a, nil
}

// impersonation is who the API server takes a token of that service account for.
func impersonation(account string) (rest.ImpersonationConfig, error) {
	namespace, name, ok := strings.Cut(account, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/:") || strings.Contains(namespace, ":") {
		return rest.ImpersonationConfig{}, fmt.Errorf("service_account %q is not <namespace>/<name>", account)
	}
	return rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}, nil
}

// Access is the API server as one account sees it. It is safe for concurrent use.
type Access struct {
	// Mapper knows the kinds that the API server serves. Reset it when a kind may be new.
	Mapper meta.ResettableRESTMapper
	// Discovery is behind the Mapper.
	Discovery discovery.CachedDiscoveryInterface

	config    *rest.Config
	transport http.RoundTripper
}

func newAccess(config *rest.Config) (*Access, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("transport to the Kubernetes API server: %w", err)
	}
	d, err := discovery.NewDiscoveryClientForConfigAndClient(config, &http.Client{Transport: transport, Timeout: discoveryTimeout})
	if err != nil {
		return nil, fmt.Errorf("discovery client: %w", err)
	}
	cached := memory.NewMemCacheClient(d)
	return &Access{
		Mapper:    restmapper.NewDeferredDiscoveryRESTMapper(cached),
		Discovery: cached,
		config:    config,
		transport: transport,
	}, nil
}
