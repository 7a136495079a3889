package manifest_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	"gitlab.com/agentk/agentk/deploy/kustomize"
	"gitlab.com/agentk/agentk/internal/agentk/manifest"
	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/test/kube"
)

var (
	update  = flag.Bool("update", false, "rewrite the golden files")
	cluster *kube.ControlPlane
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster)) }

func config() manifest.Config {
	return manifest.Config{Token: "glagent-canary", KasAddress: "wss://kas.example.com", Version: version.Version, Namespace: "gitlab-agent"}
}

func render(t *testing.T, cfg manifest.Config) string {
	t.Helper()
	out, err := manifest.Render(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRender_Golden(t *testing.T) {
	prefixed := config()
	prefixed.Namespace, prefixed.NamePrefix, prefixed.Version, prefixed.Token = "edge", "west-", "v18.9.0-rc1", "12345"
	bare := config()
	bare.NoRBAC = true
	for name, cfg := range map[string]manifest.Config{"default": config(), "prefixed": prefixed, "no-rbac": bare} {
		golden := filepath.Join("testdata", name+".yaml")
		got := render(t, cfg)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Error(name, diff)
		}
	}
}

// A prefix and a namespace must reach every mention: what is left of the base's names would be a dangling reference.
func TestRender_NothingIsLeftOfTheBase(t *testing.T) {
	cfg := config()
	cfg.Namespace, cfg.NamePrefix = "elsewhere", "x-"
	for _, o := range objects(t, render(t, cfg)) {
		for path, value := range scalars("", o) {
			if strings.Contains(value, "gitlab-agent") && !strings.Contains(value, "x-gitlab-agent") && !strings.HasSuffix(path, "/app.kubernetes.io/name") {
				t.Errorf("%s: %s", path, value)
			}
		}
	}
}

func scalars(path string, v any) map[string]string {
	all := map[string]string{}
	switch v := v.(type) {
	case string:
		all[path] = v
	case map[string]any:
		for key, child := range v {
			for p, value := range scalars(path+"/"+key, child) {
				all[p] = value
			}
		}
	case []any:
		for i, child := range v {
			for p, value := range scalars(fmt.Sprintf("%s/%d", path, i), child) {
				all[p] = value
			}
		}
	}
	return all
}

// objects are those of a manifest by "kind name".
func objects(t *testing.T, manifest string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for decoder := yaml.NewDecoder(strings.NewReader(manifest)); ; {
		var o map[string]any
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		metadata := o["metadata"].(map[string]any)
		all[o["kind"].(string)+" "+metadata["name"].(string)] = o
	}
}

func TestRender_BadConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*manifest.Config)
		want   string
	}{
		"address":        {func(c *manifest.Config) { c.KasAddress = "https://kas" }, `kas address "https://kas" has the unknown scheme "https"`},
		"no address":     {func(c *manifest.Config) { c.KasAddress = "" }, "address is empty"},
		"no token":       {func(c *manifest.Config) { c.Token = "" }, "the agent token is empty"},
		"token":          {func(c *manifest.Config) { c.Token = "canary canary" }, "characters that no token has"},
		"two lines":      {func(c *manifest.Config) { c.Token = "canary\ncanary" }, "characters that no token has"},
		"version":        {func(c *manifest.Config) { c.Version = "v1:2" }, `version "v1:2"`},
		"no version":     {func(c *manifest.Config) { c.Version = "" }, `version ""`},
		"namespace":      {func(c *manifest.Config) { c.Namespace = "A" }, `namespace "A": `},
		"long namespace": {func(c *manifest.Config) { c.Namespace = strings.Repeat("a", 64) }, "must be no more than 63"},
		"prefix":         {func(c *manifest.Config) { c.NamePrefix = "-" }, `name prefix "-"`},
		"long prefix":    {func(c *manifest.Config) { c.NamePrefix = strings.Repeat("a", 39) }, "must be no more than 63"},
	} {
		cfg := config()
		tc.change(&cfg)
		out, err := manifest.Render(cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error holds the token: %v", name, err)
		}
	}
}

// kubectl runs kubectl as administrator of the cluster.
func kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := cluster.KubectlCommand(t.Context(), cluster.AdminKubeconfig, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v: %s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	if errOut.Len() > 0 {
		t.Errorf("kubectl %s warns: %s", strings.Join(args, " "), errOut.String())
	}
	return out.String()
}

func TestRender_KubectlTakesIt(t *testing.T) {
	for name, change := range map[string]func(*manifest.Config){
		"default":  func(*manifest.Config) {},
		"prefixed": func(c *manifest.Config) { c.Namespace, c.NamePrefix = "edge", "west-" },
		"no-rbac":  func(c *manifest.Config) { c.Namespace, c.NoRBAC = "bare", true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			change(&cfg)
			text := render(t, cfg)
			// Nothing fits into a namespace that a dry run has not made.
			kubectl(t, "", "create", "namespace", cfg.Namespace, "--save-config")
			dry := kubectl(t, text, "apply", "--dry-run=server", "--validate=strict", "-f", "-")
			applied := kubectl(t, text, "apply", "--validate=strict", "-f", "-")
			if want := len(objects(t, text)); strings.Count(dry, "\n") != want || strings.Count(applied, "\n") != want {
				t.Errorf("%d objects, dry run: %s\napplied: %s", want, dry, applied)
			}
			again := kubectl(t, text, "diff", "-f", "-")
			if again != "" {
				t.Errorf("applied twice it differs: %s", again)
			}
			kubectl(t, text, "delete", "--wait=false", "-f", "-")
		})
	}
}

const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [base]
secretGenerator:
  - name: gitlab-agent-token
    namespace: gitlab-agent
    literals: [token=glagent-canary]
    options: {disableNameSuffixHash: true}
patches:
  - patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: gitlab-agent, namespace: gitlab-agent}
      spec: {template: {spec: {containers: [{name: agentk, env: [{name: KAS_ADDRESS, value: "wss://kas.example.com"}]}]}}}
`

// kustomize renders an overlay over the base.
func kustomized(t *testing.T, overlay string) map[string]map[string]any {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("glagent-canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "base"), kustomize.Files); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		t.Fatal(err)
	}
	return objects(t, kubectl(t, "", "kustomize", dir))
}

// Both ways of installing give the same objects.
func TestBase_IsWhatRenderMakes(t *testing.T) {
	want := kustomized(t, overlay)
	secret := want["Secret gitlab-agent-token"]
	delete(secret, "data") // in another form: base64
	got := objects(t, render(t, config()))
	delete(got["Secret gitlab-agent-token"], "stringData")
	delete(got["Secret gitlab-agent-token"]["metadata"].(map[string]any), "labels")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(got) < 9 {
		t.Errorf("only %d objects", len(got))
	}
}

// The overlay that the page shows works as it is, but for where the base is.
func TestBase_OverlayOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```yaml\nresources: [https://gitlab.com/agentk/agentk//deploy/kustomize?ref="+version.Version+"]\n")
	shown, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("the page shows no overlay for this version")
	}
	all := kustomized(t, "resources: [base]\n"+shown)
	if all["Secret gitlab-agent-token"] == nil || all["ClusterRoleBinding gitlab-agent:gitlab-agent-cluster-admin"] != nil {
		t.Errorf("%d objects", len(all))
	}
	if all["ClusterRoleBinding gitlab-agent:gitlab-agent-impersonator"] == nil {
		t.Error("the rights of the account that impersonates are gone as well")
	}
	deployment := slices.Collect(maps.Values(scalars("", all["Deployment gitlab-agent"])))
	if !slices.Contains(deployment, "wss://kas.example.com") || slices.Contains(deployment, "wss://kas.gitlab.com") {
		t.Error("address of kas:", deployment)
	}
}

// A prefix of kustomize renames the account and the one beside it alike: the Deployment derives one name from the other.
func TestBase_Prefix(t *testing.T) {
	all := kustomized(t, overlay+"namePrefix: west-\nnamespace: edge\n")
	for _, want := range []string{
		"ServiceAccount west-gitlab-agent", "ServiceAccount west-gitlab-agent-impersonator", "Secret west-gitlab-agent-token",
	} {
		if all[want] == nil {
			t.Errorf("%s is missing", want)
		}
	}
	deployment := scalars("", all["Deployment west-gitlab-agent"])
	if deployment["/spec/template/spec/serviceAccountName"] != "west-gitlab-agent" {
		t.Error(deployment)
	}
	role := all["Role west-gitlab-agent-impersonator"]
	rule := role["rules"].([]any)[0].(map[string]any)
	if diff := cmp.Diff([]any{"west-gitlab-agent-impersonator"}, rule["resourceNames"]); diff != "" {
		t.Error("the account for whom tokens may be made:", diff)
	}
}

func TestBase_Version(t *testing.T) {
	content, err := kustomize.Files.ReadFile("deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte("registry.gitlab.com/agentk/agentk/agentk:"+version.Version+"\n")) {
		t.Errorf("the image of the base is not of version %s", version.Version)
	}
}
