package gitops

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// valuesServer serves values, and sends those who ask for another file elsewhere.
type valuesServer struct {
	*httptest.Server
	region atomic.Pointer[string]
	strays atomic.Int32 // requests that a redirect has brought
}

func startValues(t *testing.T) *valuesServer {
	t.Helper()
	s := &valuesServer{}
	s.region.Store(new("north"))
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/values/prod.yaml":
			_, _ = fmt.Fprintf(w, "{region: %s}\n", *s.region.Load())
		case "/values/moved.yaml":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			s.strays.Add(1)
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// Values come from a URL that whoever installs the agent has allowed, again and again, and from no other.
func TestChart_ValuesFromURL(t *testing.T) {
	t.Parallel()
	server := startValues(t)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	b, cfg := newBed(cluster, 16)
	cfg.Agents[0].Args = []string{"--gitops-values-url=" + server.URL + "/values/"}
	cfg.Agents[0].Env = append(cfg.Agents[0].Env, "SSL_CERT_FILE="+roots)
	b.Line = line.StartT(t, cfg)
	u := b.newUnit(t) // lends its project and namespace
	u.push(files{
		"chart/Chart.yaml":        "{apiVersion: v2, name: shop, version: 0.1.0}\n",
		"chart/templates/cm.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: shop}, data: {v: {{ .Values.region | quote }}}}\n",
	})
	follow := func(file string) {
		t.Helper()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.charts["shop"] = fmt.Sprintf("{release_name: shop, namespace: %s, source: {project: {id: %s, path: chart}}, values: [{url: {url: %s, poll_period: 1s}}]}",
			u.namespace, u.project, server.URL+file)
		if err := b.configure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	has := func(region string) {
		t.Helper()
		eventually(t, func() string {
			if v := u.value("shop"); v != region {
				return fmt.Sprintf("the release has region %q, not %s", v, region)
			}
			return ""
		})
	}
	follow("/values/prod.yaml")
	has("north")
	server.region.Store(new("south"))
	has("south")

	log := func(words ...string) {
		t.Helper()
		eventually(t, func() string {
			for l := range strings.Lines(b.AgentLog(agentName)) {
				if hasAll(l, words) {
					return ""
				}
			}
			return fmt.Sprintf("no line of the agent's log has all of %q", words)
		})
	}
	follow("/elsewhere/prod.yaml")
	log("--gitops-values-url")
	follow("/values/moved.yaml")
	log("Synchronization failed", "redirects")
	if n := server.strays.Load(); n != 0 {
		t.Errorf("%d requests went where none may go", n)
	}
	has("south")
}
