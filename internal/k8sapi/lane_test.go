package k8sapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// A request without a body goes the plain way, unless the way to the API server is not a straight one.
func TestLane_PlainWay(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*rest.Config)
		want bool
	}{
		"usual":      {func(*rest.Config) {}, true},
		"token file": {func(c *rest.Config) { c.BearerToken, c.BearerTokenFile = "t", "f" }, true},
		"not by TLS": {func(c *rest.Config) { c.Host, c.TLSClientConfig = "http://127.0.0.1:1", rest.TLSClientConfig{} }, false},
		"proxy": {func(c *rest.Config) {
			c.Proxy = func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: "proxy.test"}, nil }
		}, false},
		"proxy for some": {func(c *rest.Config) { c.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } }, false},
		"dialer": {func(c *rest.Config) {
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := apiServer(t, echo)
			tc.edit(cfg)
			c := start(t, Config{REST: cfg})
			if got := c.own.plainPool != nil; got != tc.want {
				t.Errorf("plain: %v", got)
			}
		})
	}
}

// Whatever way a request goes, its connection serves the next one, and no place stays taken.
func TestLane_Ways(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.RemoteAddr)
	})})
	seen := map[string]string{}
	for range 3 {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			req := get(t, "/api")
			if req.Method = method; method == http.MethodPost {
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader("abc")), 3
			}
			_, from := body(t, c, req, nil)
			if seen[method] == "" {
				seen[method] = from
			}
			if seen[method] != from {
				t.Errorf("%s came over another connection", method)
			}
		}
	}
	if seen[http.MethodGet] != seen[http.MethodDelete] || seen[http.MethodGet] == seen[http.MethodPost] {
		t.Error(seen)
	}
	if len(c.own.free)+len(c.own.opening) != 0 || c.own.quickConns.busy.Load() != 0 {
		t.Error("places stay taken")
	}
}
