//go:build e2e

package install

import (
	"os"
	"strings"
	"testing"
)

// agentRelease is an agent installed by its chart.
func agentRelease(agent string) release {
	return release{name: agent, namespace: "agent-" + agent, chart: "gitlab-agent"}
}

const agentPods = "app.kubernetes.io/name=gitlab-agent,app.kubernetes.io/component!=test"

func agentValues(m *machine, t *testing.T, agent string) object {
	config := object{"token": agentToken(agent), "kasAddress": kasInCluster}
	if agent == "edge" {
		ca, err := os.ReadFile(m.authority.File)
		if err != nil {
			t.Fatal(err)
		}
		config["kasAddress"], config["kasCaCert"] = m.agentURL(), string(ca)
	}
	return object{"replicas": agentReplicas, "config": config}
}

// TestInstall goes the whole way of an installation: kas and two agents, one of them through the reverse proxy; upgrades; agents without
// Helm; the end of it all.
func TestInstall(t *testing.T) {
	showOnFailure(t)
	m := newMachine(t)
	prepare(t, m)
	admin(t, "wait", "--for=create", "serviceaccount/default", "--namespace=agent-inner", "--timeout=60s")
	before := inventory(t)

	notes := kasRelease.install(t, kasValues(m))
	for _, want := range []string{"helm test kas", "--set config.kasAddress=" + kasInCluster, m.jobURL(), "kas-doctor"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in the notes of kas:\n%s", want, notes)
		}
	}
	m.startNginx(t, serviceIP(t, "kas", "kas"))
	kasRelease.test(t)
	for _, agent := range []string{"edge", "inner"} {
		agentRelease(agent).install(t, agentValues(m, t, agent))
		agentRelease(agent).test(t)
	}
	j := job{m, kubeconfig(t)}
	for _, agent := range []string{"edge", "inner"} {
		t.Run("job through "+agent, func(t *testing.T) { j.works(t, agent) })
	}
	t.Run("confined", func(t *testing.T) {
		wantConfined(t, "kas", kasPods, "/usr/bin/kas", kasReplicas)
		wantConfined(t, "agent-edge", agentPods, "/usr/bin/agentk", agentReplicas)
	})
	t.Run("upgrade", func(t *testing.T) { upgrades(t, m) })
	t.Run("generate", func(t *testing.T) { generated(t, j) })
	t.Run("by hand", func(t *testing.T) { byHand(t, j) })

	agentRelease("edge").uninstall(t)
	agentRelease("inner").uninstall(t)
	kasRelease.uninstall(t)
	wantOnly(t, before)
}

// upgrades replaces all pods of each release while requests come in through both agents.
func upgrades(t *testing.T, m *machine) {
	for _, test := range []struct {
		name, pods, set string
		release         release
	}{
		{"agent edge", agentPods, "podAnnotations.rolled=again", agentRelease("edge")},
		{"agent inner", agentPods, "podAnnotations.rolled=again", agentRelease("inner")},
		{"kas", kasPods, "annotations.rolled=again", kasRelease},
	} {
		t.Run(test.name, func(t *testing.T) {
			const path = "/api/v1/namespaces/shop/configmaps/stock"
			edge, inner := startLoad(t, m, "edge", path), startLoad(t, m, "inner", path)
			test.release.upgrade(t, test.pods, test.set)
			edge.finish(t, "through edge")
			inner.finish(t, "through inner")
		})
	}
}
