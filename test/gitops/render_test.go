package gitops

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/kube"
)

// The overlay lies beside its base, which nobody asked for: the agent has to find out that it is needed.
func TestKustomize(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "paths: [{kustomize: overlays/prod}]", files{
		"base/kustomization.yaml":          "resources: [app.yaml]\n",
		"base/app.yaml":                    configMap("app", "base"),
		"overlays/prod/kustomization.yaml": "resources: [../../base]\nnamePrefix: prod-\npatches: [{path: patch.yaml}]\n",
		"overlays/prod/patch.yaml":         configMap("app", "prod"),
		"overlays/dev/kustomization.yaml":  "resources: [../../base]\nnamePrefix: dev-\n",
		"stray.yaml":                       configMap("stray", "1"),
	})
	u.done(u.git("rev-parse", "HEAD"))
	if u.value("prod-app") != "prod" || u.object(configMaps, "dev-app") != nil || u.object(configMaps, "app") != nil || u.object(configMaps, "stray") != nil {
		t.Error("not the overlay, or more than that")
	}
	u.sync(files{"base/kustomization.yaml": "resources: [app.yaml, two.yaml]\n", "base/two.yaml": configMap("two", "2")})
	if u.value("prod-two") != "2" {
		t.Error("a new file of the base did not arrive")
	}
	commit := u.push(files{"overlays/prod/kustomization.yaml": "resources: [https://192.0.2.1/base]\n"})
	u.fails(commit, "overlays/prod/kustomization.yaml", "https://192.0.2.1/base")
	if u.value("prod-app") != "prod" {
		t.Error("a kustomization that is refused changed the cluster")
	}
}

const chartTemplate = `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-{{ include "shop.name" . }}}
data: {v: {{ .Values.v | quote }}, tier: {{ .Values.tier | quote }}, region: {{ .Values.region | quote }}}
`

func TestChart(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t) // lends its project and namespace
	release := fmt.Sprintf("shop-%d", u.id)
	u.push(files{
		"charts/shop/Chart.yaml":             "{apiVersion: v2, name: shop, version: 0.1.0}\n",
		"charts/shop/values.yaml":            "{v: chart, tier: chart, region: chart}\n",
		"charts/shop/templates/_helpers.tpl": `{{ define "shop.name" }}{{ .Chart.Name }}{{ end }}`,
		"charts/shop/templates/cm.yaml":      chartTemplate,
		"values/prod.yaml":                   "{tier: file, region: file}\n",
	})
	shared.mu.Lock()
	shared.charts[release] = fmt.Sprintf("{release_name: %s, namespace: %s, max_history: 2, source: {project: {id: %[3]s, path: charts/shop}}, "+
		"values: [{file: {project_id: %[3]s, file: values/prod.yaml}}, {inline: {region: inline}}]}", release, u.namespace, u.project)
	err := shared.configure(t.Context())
	shared.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	has := func(v string) {
		t.Helper()
		eventually(t, func() string {
			o := u.object(configMaps, release+"-shop")
			if text(o, "data", "v") != v || text(o, "data", "tier") != "file" || text(o, "data", "region") != "inline" {
				return fmt.Sprintf("release %s: %v", release, o)
			}
			return ""
		})
	}
	has("chart")
	// A revision is recorded at the end of its run; a newer commit would cancel the run before.
	eventually(t, func() string { return wrongHistory(t, u, release, "deployed shop-0.1.0") })
	u.push(files{"charts/shop/Chart.yaml": "{apiVersion: v2, name: shop, version: 0.2.0}\n", "charts/shop/values.yaml": "{v: newer, tier: chart, region: chart}\n"})
	has("newer")
	eventually(t, func() string { return wrongHistory(t, u, release, "superseded shop-0.1.0", "deployed shop-0.2.0") })
	var list []struct{ Name, Chart, Status, Revision string }
	helm(t, &list, "list", "--namespace", u.namespace, "--output", "json")
	if len(list) != 1 || list[0].Name != release || list[0].Chart != "shop-0.2.0" || list[0].Status != "deployed" || list[0].Revision != "2" {
		t.Errorf("helm list: %+v", list)
	}
	var values map[string]string
	helm(t, &values, "get", "values", release, "--namespace", u.namespace, "--output", "json")
	if values["tier"] != "file" || values["region"] != "inline" {
		t.Errorf("helm get values: %v", values)
	}
}

// wrongHistory says what Helm knows of the release, unless that is want: status and chart of each revision.
func wrongHistory(t *testing.T, u *unit, release string, want ...string) string {
	var history []struct {
		Revision      int
		Status, Chart string
	}
	helm(t, &history, "history", release, "--namespace", u.namespace, "--output", "json")
	var got []string
	for i, revision := range history {
		if revision.Revision == i+1 {
			got = append(got, revision.Status+" "+revision.Chart)
		}
	}
	if slices.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("helm history: %+v", history)
}

// helm runs the real helm as administrator and decodes what it prints. A release that is not there yet is no error.
func helm(t *testing.T, out any, args ...string) {
	t.Helper()
	program, err := kube.Helm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.AdminKubeconfig, "HOME="+home, "HELM_CACHE_HOME="+home)
	data, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok && strings.Contains(string(exit.Stderr), "release: not found") {
		return
	}
	if err != nil {
		t.Fatalf("helm %s: %v", args[0], err)
	}
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatalf("helm %s: %v\n%s", args[0], err, data)
	}
}
