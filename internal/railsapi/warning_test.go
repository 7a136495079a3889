package railsapi

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/api/entity"
)

func TestOutdated(t *testing.T) {
	for name, tc := range map[string]struct {
		agent, kas string
		want       bool
	}{
		"same":                        {"v18.5.0", "v18.5.0", false},
		"other patch":                 {"v18.5.0", "v18.5.9", false},
		"one minor behind":            {"v18.4.9", "v18.5.0", false},
		"two minors behind":           {"v18.3.9", "v18.5.0", true},
		"two behind a pre-release":    {"v18.3.9", "v18.5.0-rc1", false},
		"three behind a pre-release":  {"v18.2.9", "v18.5.0-rc1", true},
		"newer minor":                 {"v18.9.0", "v18.5.0", false},
		"older major":                 {"v17.11.0", "v18.0.0", true},
		"newer major":                 {"v19.0.0", "v18.11.0", true},
		"without v":                   {"18.3.0", "v18.5.0", true},
		"agent's version is no such":  {"main", "v18.5.0", false},
		"agent says nothing":          {"", "v18.5.0", false},
		"kas was built without one":   {"v18.5.0", "v0-dev", false},
		"numbers that are no numbers": {"v99999999999999999999.1.1", "v18.5.0", false},
	} {
		if got := outdated(tc.agent, tc.kas) != ""; got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func at(namespace, name, kube string) *agenttracker.ConnectedAgentInfo {
	p := &agenttracker.ConnectedAgentInfo{AgentMeta: &entity.AgentMeta{Version: "v18.5.0", PodNamespace: namespace, PodName: name}}
	if kube != "" {
		p.AgentMeta.KubernetesVersion = &entity.KubernetesVersion{GitVersion: kube, Platform: "linux/amd64"}
	}
	return p
}

func TestInstallations(t *testing.T) {
	for name, tc := range map[string]struct {
		pods []*agenttracker.ConnectedAgentInfo
		want int
	}{
		"nothing":                 {nil, 0},
		"not in a cluster":        {[]*agenttracker.ConnectedAgentInfo{at("", "", "")}, 0},
		"one pod":                 {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-7d9c8b6f5d-x2k4z", "v1.33.0")}, 1},
		"replicas":                {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-7d9c8b6f5d-x2k4z", ""), at("a", "agentk-7d9c8b6f5d-bbbbb", "")}, 1},
		"during an update":        {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-7d9c8b6f5d-x2k4z", ""), at("a", "agentk-5c4f4c4f4c-x2k4z", "")}, 1},
		"StatefulSet":             {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-0", ""), at("a", "agentk-11", "")}, 1},
		"cluster not known yet":   {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-0", ""), at("a", "agentk-1", "v1.33.0")}, 1},
		"two namespaces":          {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-0", ""), at("b", "agentk-0", "")}, 2},
		"two releases":            {[]*agenttracker.ConnectedAgentInfo{at("a", "blue-7d9c8b6f5d-x2k4z", ""), at("a", "green-7d9c8b6f5d-x2k4z", "")}, 2},
		"two clusters":            {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-0", "v1.33.0"), at("a", "agentk-0", "v1.31.4")}, 2},
		"two clusters and a mute": {[]*agenttracker.ConnectedAgentInfo{at("a", "agentk-0", ""), at("a", "agentk-0", "v1.33.0"), at("a", "agentk-0", "v1.31.4")}, 2},
	} {
		if got := Installations(tc.pods); len(got) != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	got := Installations([]*agenttracker.ConnectedAgentInfo{at("prod", "agentk-7d9c8b6f5d-x2k4z", "v1.33.0"), at("dev", "x", "")})
	if diff := cmp.Diff([]string{"x in namespace dev", "agentk in namespace prod on Kubernetes v1.33.0 linux/amd64"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTracker_Warnings(t *testing.T) {
	f := start(t, nil)
	old, elsewhere := pod(7, 10, 71), pod(7, 10, 72)
	old.AgentMeta.Version, elsewhere.AgentMeta.PodNamespace = "v15.0.0", "other"
	f.register(t, old, elsewhere, pod(8, 10, 81))
	before, err := f.store.AgentsByID(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	var copies []*agenttracker.ConnectedAgentInfo
	for _, info := range before {
		copies = append(copies, proto.CloneOf(info))
	}
	got, err := rpc.NewAgentTrackerClient(f.dial(t)).GetConnectedAgentsByProjectIDs(asRails(t), &rpc.GetConnectedAgentsByProjectIDsRequest{ProjectIds: []int64{10}})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[int64][]string{}
	for _, p := range got.Agents {
		kinds[p.ConnectionId] = nil
		for _, w := range p.Warnings {
			kinds[p.ConnectionId] = append(kinds[p.ConnectionId], w.GetVersion().Type)
			if w.GetVersion().Message == "" {
				t.Error("a warning without words")
			}
		}
	}
	want := map[int64][]string{71: {warnMismatch, warnInstallations, warnOutdated}, 72: {warnMismatch, warnInstallations}, 81: nil}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
	for i, info := range before {
		if !proto.Equal(info, copies[i]) {
			t.Error("a message of the store was changed")
		}
	}
}

func TestToken_UsedByTwoInstallationsIsWarnedAbout(t *testing.T) {
	f := start(t, nil)
	core, logs := observer.New(zap.WarnLevel)
	alarm := NewInstallationAlarm(f.store, zap.New(core))
	alarm.now = f.clock.Now
	first, second := pod(7, 10, 71), pod(7, 10, 72)
	second.AgentMeta.PodNamespace = "other"
	f.register(t, first)
	alarm.Check(t.Context(), 7)
	if logs.Len() != 0 {
		t.Error("warned about one installation")
	}
	for range 3 {
		f.register(t, second)
		alarm.Check(t.Context(), 7)
	}
	if logs.Len() != 1 || logs.All()[0].ContextMap()["agent_id"] != int64(7) {
		t.Errorf("%d warnings: %v", logs.Len(), logs.All())
	}
	f.clock.advance(time.Hour)
	f.register(t, first, second)
	alarm.Check(t.Context(), 7)
	if logs.Len() != 2 {
		t.Error("not warned again after an hour")
	}
	NewInstallationAlarm(brokenStore{}, zap.New(core)).Check(t.Context(), 7)
}
