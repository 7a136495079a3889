package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/agentcfg"
)

// valuesServer is a web server with a file of values.
type valuesServer struct {
	server *httptest.Server

	mu     sync.Mutex // guards all below
	status int
	body   string
}

func newValuesServer(t *testing.T) *valuesServer {
	t.Helper()
	v := &valuesServer{}
	v.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		status, body := v.status, v.body
		v.mu.Unlock()
		if status/100 == 3 {
			w.Header().Set("Location", v.url("/elsewhere"))
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(v.server.Close)
	return v
}

func (v *valuesServer) url(path string) string { return v.server.URL + path }

func (v *valuesServer) set(status int, body string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status, v.body = status, body
}

func (v *valuesServer) allow(c *Config) {
	c.ValuesURLs, c.Transport = []string{v.url("/v")}, v.server.Client().Transport
}

func TestValues_Read(t *testing.T) {
	v := newValuesServer(t)
	r, err := newValuesReader([]string{v.url("/")}, v.server.Client().Transport, timing{values: limit})
	if err != nil {
		t.Fatal(err)
	}
	u, err := r.check(chartURL(v.url("/v/x?token=canary"), 10))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		status     int
		body, want string
	}{
		{200, "0123456789", ""},
		{200, "0123456789+", "more than 10 bytes"},
		{404, "x", "answered 404"},
		{302, "", "redirects (302), which is not followed"},
		{204, "", "answered 204"},
	} {
		v.set(tc.status, tc.body)
		got, err := r.read(t.Context(), u)
		if tc.want == "" {
			if err != nil || string(got) != tc.body {
				t.Error(string(got), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d: %v", tc.status, err)
		}
	}
	v.server.Close()
	if _, err := r.read(t.Context(), u); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func chartURL(url string, size uint32) *agentcfg.ChartValuesUrlCF {
	c := fillChart(&agentcfg.ChartCF{Values: []*agentcfg.ChartValuesCF{
		{From: &agentcfg.ChartValuesCF_Url{Url: &agentcfg.ChartValuesUrlCF{Url: url, MaxFileSize: size}}},
	}}, "p")
	return c.GetValues()[0].GetUrl()
}

func TestValues_Allowed(t *testing.T) {
	r, err := newValuesReader([]string{"https://a.example.com/team/", "https://b.example.com"}, nil, timing{})
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"https://a.example.com/team/x.yaml":          "",
		"https://A.example.com:443/team/x.yaml":      "",
		"https://b.example.com/any?x=y":              "",
		"https://a.example.com/team2/x.yaml":         "--gitops-values-url=https://a.example.com/",
		"https://a.example.com/x.yaml":               "--gitops-values-url",
		"https://a.example.com:8443/team/x.yaml":     "--gitops-values-url",
		"https://a.example.com.evil.com/team/x":      "--gitops-values-url",
		"https://a.example.com/team/../x.yaml":       "must not have the components",
		"https://a.example.com/team/%2e%2e/x.yaml":   "must not have the components",
		"https://a.example.com/team/..%2fx.yaml":     "must not have the components",
		"https://a.example.com@evil.com/team/x.yaml": "user or password",
		"http://a.example.com/team/x.yaml":           "must begin with https://",
		"file:///etc/passwd":                         "must begin with https://",
		"https://":                                   "must begin with https://",
		"\x7f":                                       "not a URL",
	} {
		_, err := r.check(chartURL(url, 0))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := r.check(chartURL("https://b.example.com/x", maxValues+1)); err == nil {
		t.Error("any size is allowed")
	}
	for _, prefix := range []string{"http://x", "https://", "https://u:canary@x", "https://x/?a=b", "https://x/../y", "x"} {
		if err := CheckValuesURL(prefix); err == nil {
			t.Errorf("prefix %q is accepted", prefix)
		}
	}
	if err := CheckValuesURL("https://x/y/"); err != nil {
		t.Error(err)
	}
}

// gone waits until there is no such process.
func gone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !alive(pid) {
			return
		}
	}
	t.Errorf("process %s lives on", pid)
}

// alive says whether there is such a process, and more of it than its exit status.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
