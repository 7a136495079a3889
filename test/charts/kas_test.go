package charts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"gitlab.com/agentk/agentk/internal/kas/cli"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

func kasChart(t *testing.T) *Chart { return New(t, cluster, "kas") }

func TestKas_Matrix(t *testing.T) { kasChart(t).Matrix(t) }

func TestKas_Documented(t *testing.T) { kasChart(t).Documented(t, "global") }

const (
	kasStandalone = "{minReplicas: 1, maxReplicas: 1, standalone: {enabled: true, repositoriesVolume: {emptyDir: {}}}}"
	kasGitLab     = "{gitlab: {address: 'https://gitlab.test'}, redis: {enabled: true, server: {address: 'r:6379'}}}"
)

// kasCases are the values of all cases, by name.
func kasCases(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/kas/*/values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	cases := map[string]string{"standalone by default": kasStandalone, "GitLab by default": kasGitLab}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cases[filepath.Base(filepath.Dir(file))] = string(content)
	}
	return cases
}

// kasConfig is the configuration file in a manifest.
func kasConfig(t *testing.T, manifest string) string {
	t.Helper()
	for _, o := range Objects(t, manifest) {
		if text := o.Text("stringData", "config.yaml"); o.Kind() == "Secret" && text != "" {
			return text
		}
	}
	t.Fatal("no configuration file in the manifest")
	return ""
}

// kasValidate is "kas validate".
func kasValidate(t *testing.T, configuration string) (code int, complaints string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	noDaemon := func(context.Context, *config.Config, *telemetry.Log) error { return errors.New("the daemon ran") }
	var out, errs bytes.Buffer
	code = cli.Main(noDaemon, []string{"validate", "--configuration-file", file}, cli.Streams{In: &bytes.Buffer{}, Out: &out, Err: &errs})
	return code, errs.String()
}

func TestKas_ConfigurationIsValid(t *testing.T) {
	c := kasChart(t)
	for name, values := range kasCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, complaints := kasValidate(t, kasConfig(t, c.Render(t, values)))
			if code != 0 || strings.Contains(complaints, "unknown key") {
				t.Errorf("kas validate: code %d\n%s", code, complaints)
			}
		})
	}
	t.Run("a mistake in customConfig", func(t *testing.T) {
		code, complaints := kasValidate(t, kasConfig(t, c.Render(t, kasStandalone[:len(kasStandalone)-1]+", customConfig: {agent: {info_cache_ttl: soon}}}")))
		if code != 1 || !strings.Contains(complaints, "agent.info_cache_ttl") {
			t.Errorf("kas validate: code %d\n%s", code, complaints)
		}
	})
}

var kasFile = regexp.MustCompile(`/etc/kas/(\S+)`)

// Every file that the configuration names is mounted, in the daemon's pod and in that of the test.
func TestKas_FilesAreMounted(t *testing.T) {
	c := kasChart(t)
	for name, values := range kasCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifest := c.Render(t, values)
			named := kasFile.FindAllStringSubmatch(kasConfig(t, manifest), -1)
			pods := 0
			for _, o := range Objects(t, manifest) {
				spec, ok := o.podSpec()
				if !ok {
					continue
				}
				pods++
				mounted := kasMounted(t, spec)
				for _, file := range named {
					if !mounted[file[1]] {
						t.Errorf("%s %s: /etc/kas/%s is not mounted", o.Kind(), o.Name(), file[1])
					}
				}
			}
			if pods != 2 {
				t.Errorf("%d pods, want the daemon's and that of the test", pods)
			}
		})
	}
}

// kasMounted are the paths in the projected volume of a pod.
func kasMounted(t *testing.T, spec map[string]any) map[string]bool {
	t.Helper()
	mounted := map[string]bool{}
	volumes, _, _ := unstructured.NestedSlice(spec, "volumes")
	for _, volume := range volumes {
		sources, _, _ := unstructured.NestedSlice(volume.(map[string]any), "projected", "sources")
		for _, source := range sources {
			items, _, _ := unstructured.NestedSlice(source.(map[string]any), "secret", "items")
			for _, item := range items {
				path, _, err := unstructured.NestedString(item.(map[string]any), "path")
				if err != nil || mounted[path] {
					t.Errorf("path %q twice, or none: %v", path, err)
				}
				mounted[path] = true
			}
		}
	}
	return mounted
}

// A change of tokens and jobs reaches running pods by itself; one of anything else replaces them.
func TestKas_RestartsForTheConfigurationOnly(t *testing.T) {
	c := kasChart(t)
	template := func(change string) string {
		t.Helper()
		manifest := c.Render(t, strings.Replace(kasStandalone, "enabled: true,", "enabled: true, "+change, 1))
		o := Find(t, manifest, "Deployment", "kas")
		return o.Text("spec", "template", "metadata", "annotations", "checksum/config")
	}
	before := template("")
	if after := template("projects: [{id: 1, path: acme/infra}],"); before == "" || after != before {
		t.Errorf("checksum %q became %q although kas reads projects again by itself", before, after)
	}
	if after := template("anyNamespace: true,"); after == before {
		t.Error("the checksum does not notice a change of standalone.anyNamespace")
	}
}
