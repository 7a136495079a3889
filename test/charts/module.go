package charts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is a Go module that ships YAML which the tests need, at an exact version with the hash of its contents.
type module struct {
	path, version, sum string
	// files are patterns below the module.
	files []string
}

// The CustomResourceDefinitions of the objects that the charts can make.
var definitions = []module{
	{
		path: "github.com/prometheus-operator/prometheus-operator", version: "v0.94.1",
		sum: "h1:QEIb2wenPH+SdMN1xMf8l4Pmj00YYXXI6HlbLlQWkww=",
		files: []string{
			"example/prometheus-operator-crd/*_servicemonitors.yaml",
			"example/prometheus-operator-crd/*_podmonitors.yaml",
			"example/prometheus-operator-crd/*_prometheusrules.yaml",
		},
	},
	{
		path: "sigs.k8s.io/gateway-api", version: "v1.4.0",
		sum:   "h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ=",
		files: []string{"config/crd/standard/*.yaml"},
	},
}

// find returns the files, downloading the module when the cache of this machine lacks it. Nothing of it is built, so it needs no line
// in go.mod.
func (m module) find(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", m.path+"@"+m.version)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	var answer struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &answer); jsonErr != nil || answer.Error != "" || err != nil {
		return nil, fmt.Errorf("download %s@%s: %v %s", m.path, m.version, err, answer.Error)
	}
	if answer.Sum != m.sum {
		return nil, fmt.Errorf("%s@%s has the hash %s, want %s", m.path, m.version, answer.Sum, m.sum)
	}
	var files []string
	for _, pattern := range m.files {
		found, err := filepath.Glob(filepath.Join(answer.Dir, pattern))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s@%s has no %s", m.path, m.version, pattern)
		}
		for _, file := range found {
			if !strings.HasSuffix(file, "kustomization.yaml") {
				files = append(files, file)
			}
		}
	}
	return files, nil
}
