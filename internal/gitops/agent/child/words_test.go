package child

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestWords(t *testing.T) {
	w := &words{}
	for range 1000 {
		if n, err := w.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	_, _ = w.Write([]byte("the token abc\xff"))
	got := w.text([]string{"abc", ""})
	if len(got) > headBytes+tailBytes+20 || !strings.HasPrefix(got, "0123456789") || !strings.HasSuffix(got, "the token [secret]?") || !strings.Contains(got, "[…]") {
		t.Error(len(got), got)
	}
}

func TestFit(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "memory.max")
	defer func(old []string) { cgroupLimits = old }(cgroupLimits)
	cgroupLimits = []string{filepath.Join(dir, "none"), file}
	for _, tc := range []struct {
		content string
		want    int64
	}{{"", 512}, {"max\n", 512}, {"1000\n", 512}, {"400\n", 300}, {"120\n", 100}, {"50\n", 100}} {
		if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Fit(512, 100); got != tc.want {
			t.Errorf("limit %q: %d, want %d", tc.content, got, tc.want)
		}
	}
}

func TestNewAccess_Pod(t *testing.T) {
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "AGENTK_TOKEN": "x"}
	cfg := &rest.Config{Host: "https://10.0.0.1:443", BearerTokenFile: podToken, BearerToken: "canary"}
	a, err := NewAccess(cfg, func(name string) string { return env[name] })
	if err != nil || a.Kubeconfig != nil || strings.Join(a.Environment, " ") != "KUBERNETES_SERVICE_HOST=10.0.0.1 KUBERNETES_SERVICE_PORT=443" {
		t.Errorf("%+v %v", a, err)
	}
	if len(a.Secrets) != 1 || a.Secrets[0] != "canary" {
		t.Error(a.Secrets)
	}
	// A pod that acts as somebody else must say so.
	cfg.Impersonate.UserName = "jane"
	a, err = NewAccess(cfg, func(name string) string { return env[name] })
	if err != nil || !strings.Contains(string(a.Kubeconfig), "as: jane") || len(a.Environment) != 0 {
		t.Errorf("%s %v", a.Kubeconfig, err)
	}
}

// What comes out is the way that went in.
func TestNewAccess_Kubeconfig(t *testing.T) {
	in := &rest.Config{
		Host: "https://api.example.com:6443/prefix", BearerToken: "canary", Username: "", Impersonate: rest.ImpersonationConfig{UserName: "jane", Groups: []string{"g"}},
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca"), CertData: []byte("cert"), KeyData: []byte("key"), ServerName: "other"},
	}
	a, err := NewAccess(in, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	out, err := clientcmd.RESTConfigFromKubeConfig(a.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if out.Host != in.Host || out.BearerToken != in.BearerToken || out.Impersonate.UserName != "jane" || out.Impersonate.Groups[0] != "g" ||
		string(out.CAData) != "ca" || string(out.CertData) != "cert" || string(out.KeyData) != "key" || out.ServerName != "other" {
		t.Errorf("%s", a.Kubeconfig)
	}
	if _, err := NewAccess(&rest.Config{Host: "https://x", ExecProvider: &clientcmdapi.ExecConfig{Command: "aws"}}, os.Getenv); err == nil {
		t.Error("a program for credentials is accepted")
	}
	if _, err := NewAccess(&rest.Config{Host: "https://\x7f"}, os.Getenv); err == nil {
		t.Error("a bad address is accepted")
	}
}
