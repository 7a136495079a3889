package gitops

import (
	"fmt"
	"testing"
)

// refused is a manifest that the API server refuses.
const refused = "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, data: {v: [1]}}\n"

func TestOnError(t *testing.T) {
	for _, mode := range []string{"stop", "continue"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u := shared.follow(t, "on_error: "+mode, files{"old.yaml": configMap("old", "1")})
			u.done(u.git("rev-parse", "HEAD"))
			commit := u.push(files{
				"old.yaml": "", "bad.yaml": refused, "zafter.yaml": configMap("zafter", "1"),
				"zafterbad.yaml": annotated("zafterbad", "config.kubernetes.io/depends-on", "/namespaces/"+u.namespace+"/ConfigMap/bad"),
			})
			d := u.fails(commit, "bad.yaml:1", "ConfigMap "+u.namespace+"/bad")
			goesOn := mode == "continue"
			if got := u.object(configMaps, "zafter") != nil; got != goesOn {
				t.Errorf("an object that does not depend on the bad one was applied: %t; %+v", got, d)
			}
			if got := u.object(configMaps, "old") == nil; got != goesOn {
				t.Errorf("what is in git no more was removed: %t; %+v", got, d)
			}
			if u.object(configMaps, "zafterbad") != nil {
				t.Error("an object that depends on the bad one was applied")
			}
			u.sync(files{"bad.yaml": configMap("bad", "good")})
			if u.value("zafter") != "1" || u.object(configMaps, "zafterbad") == nil || u.object(configMaps, "old") != nil {
				t.Error("the corrected commit was not applied")
			}
		})
	}
}

// The account may change ConfigMaps of one namespace and nothing else, though the agent may do everything.
func TestServiceAccount(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	if err := cluster.Apply(t.Context(), fmt.Sprintf(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: deployer, namespace: %[1]s}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deployer, namespace: %[1]s},
  rules: [{apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deployer, namespace: %[1]s},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer},
  subjects: [{kind: ServiceAccount, name: deployer, namespace: %[1]s}]}
`, u.namespace)); err != nil {
		t.Fatal(err)
	}
	u.push(files{"a.yaml": configMap("a", "1")})
	u.configure("service_account: " + u.namespace + "/deployer")
	u.done(u.git("rev-parse", "HEAD"))
	if u.value("a") != "1" {
		t.Error("the account may, and nothing was applied")
	}
	account := "system:serviceaccount:" + u.namespace + ":deployer"
	secret := u.push(files{"s.yaml": "{apiVersion: v1, kind: Secret, metadata: {name: s}}\n"})
	u.fails(secret, "s.yaml:1", "Secret "+u.namespace+"/s", "forbidden", account)
	elsewhere := u.push(files{"s.yaml": "", "b.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: default}}\n"})
	u.fails(elsewhere, "b.yaml:1", "forbidden", account)
	if o, err := shared.get(t, configMaps, "default", "b"); err != nil || o != nil || u.object("secrets.v1.", "s") != nil {
		t.Errorf("the account has done what it may not: %v", err)
	}
	u.sync(files{"a.yaml": configMap("a", "2"), "b.yaml": ""})
	if u.value("a") != "2" {
		t.Error("the corrected commit was not applied")
	}
}

// A field is filled in from another object when it is applied, also when only that one has changed.
func TestApplyTimeMutation(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	u.push(files{
		"source.yaml": configMap("source", "gold"), "b.yaml": configMap("b", "1"), "c.yaml": configMap("c", "1"), "d.yaml": configMap("d", "1"),
		"a-target.yaml": fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata:
  name: target
  annotations:
    config.kubernetes.io/apply-time-mutation: |
      - sourceRef: {kind: ConfigMap, name: source, namespace: %s}
        sourcePath: $.data.v
        targetPath: $.data.v
        token: ${it}
data: {v: "got ${it}"}
`, u.namespace),
	})
	u.configure("")
	u.done(u.git("rev-parse", "HEAD"))
	if v := u.value("target"); v != "got gold" {
		t.Errorf("target has %q", v)
	}
	u.sync(files{"source.yaml": configMap("source", "silver")})
	if v := u.value("target"); v != "got silver" {
		t.Errorf("target has %q after its source has changed", v)
	}
	u.sync(files{"b.yaml": configMap("b", "2")})
	if v := u.value("target"); v != "got silver" {
		t.Errorf("target has %q after something else has changed", v)
	}
}
