package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/yaml"

	"gitlab.com/agentk/agentk/test/kube"
)

// kubeVersion and apiVersions are what the charts are told of the cluster.
const kubeVersion = "v1.36.3"

var apiVersions = []string{"v1", "apps/v1", "networking.k8s.io/v1", "monitoring.coreos.com/v1"}

func TestKustomize_IsWhatKubectlMakes(t *testing.T) {
	bin, err := kube.Binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ repository, dir string }{
		{"k1", "overlays/prod"}, {"k2", "app"}, {"k3", ""}, {"k4", ""}, {"k5", ""}, {"k6", "top"},
	} {
		t.Run(tc.repository, func(t *testing.T) {
			repository := filepath.Join("testdata", tc.repository)
			want := command(t, filepath.Join(bin, "kubectl"), "kustomize", filepath.Join(repository, tc.dir))
			got, need, err := Kustomize(t.Context(), readTree(t, repository), tc.dir, Limits{}, "")
			if err != nil || len(need) > 0 {
				t.Fatalf("error %v, need %q", err, need)
			}
			compare(t, want, got)
			for _, object := range got {
				if object.File == "" || object.Line != 0 {
					t.Errorf("%s stands in %q line %d, want a file and no line", object.GetName(), object.File, object.Line)
				}
			}
		})
	}
}

func TestRenderChart_IsWhatHelmMakes(t *testing.T) {
	helm, err := kube.Helm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		repository, dir string
		values, crds    int
	}{{"h1", "", 2, 0}, {"h2", "", 0, 0}, {"h3", "", 0, 3}, {"h4", "deploy/chart", 0, 0}} {
		t.Run(tc.repository, func(t *testing.T) {
			repository := filepath.Join("testdata", tc.repository)
			args := []string{
				"template", "rel", filepath.Join(repository, tc.dir), "--include-crds", "--skip-tests", "--namespace", "space",
				"--kube-version", kubeVersion,
			}
			for _, v := range apiVersions {
				args = append(args, "--api-versions", v)
			}
			c := Chart{
				Dir: tc.dir, Files: readTree(t, repository), ReleaseName: "rel", Namespace: "space", KubeVersion: kubeVersion,
				APIVersions: apiVersions,
			}
			for i := range tc.values {
				file := fmt.Sprintf("testdata/%s-values/%d.yaml", tc.repository, i)
				args = append(args, "--values", file)
				c.Values = append(c.Values, readTree(t, filepath.Dir(file))[i].Data)
			}
			want := command(t, helm, args...)
			got, err := RenderChart(t.Context(), c, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, want, got.Objects)
			if got.CRDs != tc.crds {
				t.Errorf("%d objects are of crds/, want %d", got.CRDs, tc.crds)
			}
			for i, object := range got.Objects {
				if isCRD := object.GetKind() == "CustomResourceDefinition"; isCRD != (i < got.CRDs) {
					t.Errorf("object %d of %d from crds/ is a %s", i, got.CRDs, object.GetKind())
				}
			}
		})
	}
}

func command(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	// Nothing of the user's own, and no cluster.
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home, "KUBECONFIG=/dev/null"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(name), args, err, &stderr)
	}
	return out
}

// compare holds objects against the text that a real tool printed, without their order.
func compare(t *testing.T, printed []byte, objects []Object) {
	t.Helper()
	var want []any
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(printed), 4096)
	for {
		var value map[string]any
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if items, ok := value["items"].([]any); ok {
			want = append(want, items...)
		} else if len(value) > 0 {
			want = append(want, value)
		}
	}
	var got []any
	for _, object := range objects {
		got = append(got, object.Object)
	}
	if len(want) == 0 {
		t.Fatal("the real tool printed no object")
	}
	if diff := cmp.Diff(canonical(t, want), canonical(t, got)); diff != "" {
		t.Errorf("objects differ from those of the real tool (-want +got):\n%s", diff)
	}
}

func canonical(t *testing.T, values []any) []string {
	t.Helper()
	texts := make([]string, len(values))
	for i, value := range values {
		text, err := json.MarshalIndent(value, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	sort.Strings(texts)
	return texts
}
