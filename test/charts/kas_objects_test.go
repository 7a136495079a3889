package charts

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What the chart makes at random is as long as kas and GitLab want it, and survives an upgrade; more of it comes with more features.
func TestKas_GeneratedSecrets(t *testing.T) {
	c := kasChart(t)
	namespace := cluster.Namespace(t)
	helm := func(verb, values string) map[string]string {
		t.Helper()
		if _, stderr, err := c.Helm(t, values, verb, "kas", c.Dir, "--namespace", namespace, "--values", "-"); err != nil {
			t.Fatalf("helm %s: %v\n%s", verb, err, stderr)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		found, err := cluster.Kubectl(ctx, "--namespace", namespace, "get", "secret", "kas-secrets", "-o",
			`go-template={{range $key, $value := .data}}{{$key}} {{$value | base64decode}}{{"\n"}}{{end}}`)
		if err != nil {
			t.Fatal(err)
		}
		secrets := map[string]string{}
		for line := range strings.Lines(found) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			secrets[key] = value
		}
		return secrets
	}
	replicas := "{redis: {enabled: true, server: {address: 'r:6379'}}, standalone: {enabled: true, repositoriesVolume: {emptyDir: {}}}}"
	first := helm("install", replicas)
	second := helm("upgrade", kasGitLab)
	third := helm("upgrade", "{podLabels: {a: b}, "+kasGitLab[1:])
	if diff := cmp.Diff(second, third); diff != "" {
		t.Error("an upgrade changed the secrets")
	}
	if first["kas_private_api_secret"] != second["kas_private_api_secret"] || len(first) != 1 {
		t.Errorf("the secret of replicas changed, or there are more: %d", len(first))
	}
	for key, size := range map[string]int{"kas_private_api_secret": 32, "kas_shared_secret": 32, "kas_websocket_token_secret": 72} {
		if raw, err := base64.StdEncoding.DecodeString(second[key]); err != nil || len(raw) != size {
			t.Errorf("%s decodes to %d bytes (%v), want %d", key, len(raw), err, size)
		}
	}
	if _, stderr, err := c.Helm(t, "", "uninstall", "kas", "--namespace", namespace); err != nil {
		t.Errorf("helm uninstall: %v\n%s", err, stderr)
	}
}

// Services select the daemon's pods only, by ports that these have.
func TestKas_ServicesFindTheirPods(t *testing.T) {
	c := kasChart(t)
	for name, values := range kasCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := Objects(t, c.Render(t, values))
			var labels map[string]string
			ports := map[string]bool{}
			for _, o := range objects {
				if o.Kind() != "Deployment" {
					continue
				}
				labels, _, _ = unstructured.NestedStringMap(o, "spec", "template", "metadata", "labels")
				containers, _, _ := unstructured.NestedSlice(o, "spec", "template", "spec", "containers")
				list, _, _ := unstructured.NestedSlice(containers[0].(map[string]any), "ports")
				for _, p := range list {
					ports[p.(map[string]any)["name"].(string)] = true
				}
			}
			services := 0
			for _, o := range objects {
				selector, _, _ := unstructured.NestedStringMap(o, "spec", "selector")
				if o.Kind() == "Service" {
					services++
					if !covers(labels, selector) {
						t.Errorf("Service %s selects %v, pods have %v", o.Name(), selector, labels)
					}
					list, _, _ := unstructured.NestedSlice(o, "spec", "ports")
					for _, p := range list {
						if target := p.(map[string]any)["targetPort"].(string); !ports[target] {
							t.Errorf("Service %s wants port %s, pods have %v", o.Name(), target, ports)
						}
					}
				}
				if test, _, _ := unstructured.NestedStringMap(o, "metadata", "labels"); o.Kind() == "Pod" && covers(test, labels) {
					t.Errorf("the pod of the test has the labels of the daemon: %v", test)
				}
			}
			if services < 2 {
				t.Errorf("%d Services", services)
			}
		})
	}
}

// covers tells whether labels have all of a selector's.
func covers(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

func TestKas_Notes(t *testing.T) {
	c := kasChart(t)
	for values, want := range map[string][]string{
		kasStandalone: {
			"standalone.", "helm test kas --namespace kas", "kas standalone hash-token", "config.kasAddress=ws://kas.kas.svc:8150",
			"inside this cluster only", "kubectl delete pod kas-doctor",
		},
		kasGitLab: {
			"beside https://gitlab.test", "internal_url: grpc://kas-api.kas.svc:8153", "kubectl get secret kas-secrets",
			`go-template='{{index .data "kas_shared_secret" | base64decode}}'`, "a new installation needs the new one in GitLab",
		},
		"{ingress: {enabled: true}, tls: {enabled: true, secretName: t}, " + kasGitLab[1:]: {
			"config.kasAddress=wss://kas.example.com/ ", "internal_url: grpcs://", "external_url: wss://kas.example.com/\n",
			"Jobs reach the agents' clusters at https://kas.example.com/k8s-proxy",
		},
		"{gatewayRoute: {enabled: true, hostname: g.test, parentRefs: [{name: p}]}, " + kasGitLab[1:]: {
			"config.kasAddress=wss://g.test/ ", "https://g.test/k8s-proxy",
		},
	} {
		notes := c.Notes(t, values) + "\n"
		for _, text := range want {
			if !strings.Contains(strings.ReplaceAll(notes, "\n", " \n"), text) && !strings.Contains(notes, text) {
				t.Errorf("the notes lack %q:\n%s", text, notes)
			}
		}
	}
}
