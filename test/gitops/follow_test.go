package gitops

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestFollow_CreateChangeDelete(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1"), "sub/b.yml": configMap("b", "1"), "README.md": "no manifest"})
	first := u.git("rev-parse", "HEAD")
	if d := u.done(first); d.Counts.Applied != 2 {
		t.Errorf("%+v", d)
	}
	u.sync(files{"a.yaml": configMap("a", "2")})
	if a, b := u.value("a"), u.value("b"); a != "2" || b != "1" {
		t.Errorf("a is %q, b is %q", a, b)
	}
	d := u.sync(files{"sub/b.yml": "", "c.json": `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"v": "3"}}`})
	if u.object(configMaps, "b") != nil || u.value("c") != "3" || u.value("a") != "2" || d.Counts.Pruned != 1 {
		t.Errorf("b should be gone and c there: %+v", d)
	}
	u.sync(files{"a.yaml": "", "c.json": ""})
	if u.object(configMaps, "a") != nil || u.object(configMaps, "c") != nil {
		t.Error("everything was removed from git, but not from the cluster")
	}
}

func TestFollow_LeavesConfigurationStaysInCluster(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1")})
	u.done(u.git("rev-parse", "HEAD"))
	u.forget()
	other := shared.follow(t, "", files{"o.yaml": configMap("o", "1")})
	other.done(other.git("rev-parse", "HEAD")) // the new configuration is in force
	u.push(files{"a.yaml": configMap("a", "2")})
	other.sync(files{"o.yaml": configMap("o", "2")})
	if v := u.value("a"); v != "1" {
		t.Errorf("a project that is followed no more has %q", v)
	}
}

func TestFollow_DefinitionAndItsResource(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	group := fmt.Sprintf("g%d.example.com", u.id)
	definition := fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.%[1]s}, spec: {group: %[1]s, scope: Namespaced,
  names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}}]}}
`, group)
	u.push(files{
		"a-widget.yaml": fmt.Sprintf("{apiVersion: %s/v1, kind: Widget, metadata: {name: w}, spec: {size: 3}}\n", group),
		"z-crd.yaml":    definition,
	})
	u.configure("")
	u.done(u.git("rev-parse", "HEAD"))
	if u.object("widgets.v1."+group, "w") == nil {
		t.Error("there is no widget")
	}
	u.sync(files{"a-widget.yaml": "", "z-crd.yaml": "", "keep.yaml": configMap("keep", "1")})
	if u.object("customresourcedefinitions.v1.apiextensions.k8s.io", "widgets."+group) != nil {
		t.Error("the definition is still there")
	}
}

func TestFollow_NamespaceAndItsContent(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	other := u.namespace + "-inner"
	u.push(files{
		"a.yaml": fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: inside, namespace: %s}, data: {v: '1'}}\n", other),
		"z.yaml": fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n", other),
	})
	u.configure("")
	u.done(u.git("rev-parse", "HEAD"))
	if o, err := shared.get(t, configMaps, other, "inside"); err != nil || o == nil {
		t.Errorf("content of the namespace: %v, %v", o, err)
	}
	u.sync(files{"a.yaml": "", "z.yaml": "", "keep.yaml": configMap("keep", "1")})
	if o, err := shared.get(t, "namespaces.v1.", "", other); err != nil || o != nil {
		t.Errorf("the namespace is still there: %v", err)
	}
}

func TestFollow_DependsOn(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	on := func(name string) string { return fmt.Sprintf("/namespaces/%s/ConfigMap/%s", u.namespace, name) }
	u.push(files{
		"a.yaml": annotated("a", "config.kubernetes.io/depends-on", on("b")),
		"b.yaml": annotated("b", "config.kubernetes.io/depends-on", on("c")),
		"c.yaml": configMap("c", "1"),
	})
	u.configure("")
	u.done(u.git("rev-parse", "HEAD"))
	var previous string
	for _, name := range []string{"c", "b", "a"} {
		version := u.object(configMaps, name).GetResourceVersion()
		if len(version) < len(previous) || len(version) == len(previous) && version <= previous {
			t.Errorf("%s was written at %s, before what it depends on at %s", name, version, previous)
		}
		previous = version
	}
	d := u.document()
	cycle := u.push(files{"c.yaml": annotated("c", "config.kubernetes.io/depends-on", on("a"))})
	u.fails(cycle, "cyclic")
	if u.value("c") != "1" || d.Counts.Applied != 3 {
		t.Errorf("a cycle changed something: %+v", d)
	}
}

func TestFollow_FieldOfAnAutoscaler(t *testing.T) {
	t.Parallel()
	// There is no node, so it never gets ready.
	u := shared.follow(t, "reconcile_timeout: 0s", files{"web.yaml": deployment("web", "revisionHistoryLimit: 3, paused: true")})
	u.done(u.git("rev-parse", "HEAD"))
	scale(t, u, "web", 4)
	u.sync(files{"web.yaml": deployment("web", "revisionHistoryLimit: 4, paused: true")})
	o := u.object(deployments, "web")
	spec := o.Object["spec"].(map[string]any)
	if spec["replicas"] != int64(4) || spec["revisionHistoryLimit"] != int64(4) {
		t.Errorf("replicas %v and revisionHistoryLimit %v", spec["replicas"], spec["revisionHistoryLimit"])
	}
}

// scale does what an autoscaler does.
func scale(t *testing.T, u *unit, name string, replicas int) {
	t.Helper()
	_, err := resource(t, u.bed.cp, deployments, u.namespace).Patch(t.Context(), name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, replicas), metav1.PatchOptions{FieldManager: "autoscaler"}, "scale")
	if err != nil {
		t.Fatal(err)
	}
}
