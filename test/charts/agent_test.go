package charts

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/internal/version"
)

const agentChart = "gitlab-agent"

func TestAgent(t *testing.T) { New(t, cluster, agentChart).Matrix(t) }

func TestAgent_Documented(t *testing.T) {
	New(t, cluster, agentChart).Documented(t, "global", "enabled", "config.caCert")
}

func TestAgent_Version(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(New(t, cluster, agentChart).Dir, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var chart struct{ Version, AppVersion string }
	if err := yaml.Unmarshal(text, &chart); err != nil {
		t.Fatal(err)
	}
	if chart.AppVersion != version.Version || "v"+chart.Version != version.Version {
		t.Errorf("chart %s of %s, want both to be %s", chart.Version, chart.AppVersion, version.Version)
	}
}

// A values file that changes nothing gives what no values file gives, but for the image.
func TestAgent_StockValues(t *testing.T) {
	root := filepath.Join("testdata", agentChart)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name, "golden.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	got := strings.ReplaceAll(read("stock-values"), "registry.gitlab.com/gitlab-org/cluster-integration/gitlab-agent/agentk", "registry.gitlab.com/agentk/agentk/agentk")
	if got != read("default") {
		t.Error("stock values change more than the image")
	}
}

// Every flag that the chart gives, agentk has.
func TestAgent_Flags(t *testing.T) {
	help, err := os.ReadFile(filepath.Join("..", "..", "internal", "agentk", "cli", "testdata", "help.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var flags int
	for _, name := range []string{"pod", "around-the-pod", "private-ca"} {
		manifest, err := os.ReadFile(filepath.Join("testdata", agentChart, name, "golden.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^ *- "?(--[a-z-]+)=`).FindAllStringSubmatch(string(manifest), -1) {
			flags++
			if !strings.Contains(string(help), " "+match[1]+" ") {
				t.Errorf("%s: agentk has no flag %s", name, match[1])
			}
		}
	}
	if flags == 0 {
		t.Error("there are no flags")
	}
}

// Which port of kas the NetworkPolicy opens.
func TestAgent_KasPort(t *testing.T) {
	chart := New(t, cluster, agentChart)
	for address, want := range map[string]string{
		"wss://kas.example.com":                             "443",
		"wss://gitlab.example.com/-/kubernetes-agent/":      "443",
		"ws://kas.example.com/path:99/":                     "80",
		"wss://gitlab.example.com:4433/-/kubernetes-agent/": "4433",
		"grpc://kas":                 "80",
		"grpcs://kas":                "443",
		"grpcs://[2001:db8::1]":      "443",
		"grpcs://[2001:db8::1]:8150": "8150",
	} {
		manifest := chart.Render(t, fmt.Sprintf("config: {token: a, kasAddress: %q}\nnetworkPolicy: {enabled: true}", address))
		policy := Find(t, manifest, "NetworkPolicy", agentChart)
		if got := policy.First("spec", "egress", "ports", "port"); fmt.Sprint(got) != want {
			t.Errorf("%s: port %v, want %s", address, got, want)
		}
	}
}

// The certificate is that of the API server, which is as good as any.
func TestAgent_ObservabilityCertificate(t *testing.T) {
	chart := New(t, cluster, agentChart)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(cluster.Dir, "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	values, err := yaml.Marshal(map[string]any{"config": map[string]any{
		"token": "agent-token",
		"observability": map[string]any{"tls": map[string]any{
			"enabled": true, "cert": read("apiserver.crt"), "key": read("apiserver.key"), "secret": map[string]any{"create": true},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	manifest := chart.Render(t, string(values))
	data, _ := Find(t, manifest, "Secret", "gitlab-agent-observability")["data"].(map[string]any)
	if got := data["tls.crt"]; got != base64.StdEncoding.EncodeToString([]byte(read("apiserver.crt"))) {
		t.Errorf("tls.crt is %v", got)
	}
	cluster.restricted(t, agentChart)
	cluster.DryRun(t, agentChart, manifest)
}

func TestAgent_Names(t *testing.T) {
	chart := New(t, cluster, agentChart)
	const values = "config: {token: agent-token}\n"
	long := strings.Repeat("x", 53)
	for name, tc := range map[string]struct{ release, values, want string }{
		"release says it":       {"my-gitlab-agent", "", "my-gitlab-agent-v2"},
		"release says it not":   {"edge", "", "edge-gitlab-agent-v2"},
		"decomposed":            {"gitlab-agent", "decomposedNames: true", "gitlab-agent-gitlab-agent-v2"},
		"name":                  {"edge", "nameOverride: agentk", "edge-agentk-v2"},
		"full name":             {"edge", "fullnameOverride: shop", "shop-v2"},
		"long":                  {long, "", (long + "-gitlab-agent")[:60] + "-v2"},
		"a number is no number": {"123", "nameOverride: agentk", "123-agentk-v2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifest := chart.Template(t, tc.release, agentChart, values+tc.values)
			Find(t, manifest, "Deployment", tc.want)
			cluster.restricted(t, agentChart)
			cluster.DryRun(t, agentChart, manifest)
		})
	}
}

func TestAgent_Notes(t *testing.T) {
	chart := New(t, cluster, agentChart)
	for name, tc := range map[string]struct {
		values string
		want   []string
	}{
		"default": {"config: {token: agent-token}", []string{
			"connects this cluster to wss://kas.gitlab.com", "helm test gitlab-agent --namespace gitlab-agent", "agentk is cluster-admin",
			"What it leaves:\n- what GitOps applied", "Secret gitlab-agent-token has changed",
		}},
		"impersonate-only": {"config: {token: agent-token}\nrbac: {profile: impersonate-only}", []string{
			"kubectl create rolebinding deployers",
		}},
		"namespaces": {"config: {tokenFile: /a/token}\nrbac: {profile: {namespaces: [default, kube-public]}}", []string{
			"end at these namespaces: default, kube-public", "after /a/token has changed", "rbac.impersonationAccount.create=true",
		}},
		"no rights": {"config: {secretName: mine}\nrbac: {create: false}", []string{"rbac.create is false", "and Secret mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notes := chart.Notes(t, tc.values)
			for _, text := range tc.want {
				if !strings.Contains(notes, text) {
					t.Errorf("the notes lack %q:\n%s", text, notes)
				}
			}
			if strings.Contains(notes, "agent-token\n") {
				t.Error("the notes tell the token")
			}
		})
	}
}
