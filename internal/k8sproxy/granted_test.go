package k8sproxy

import (
	"errors"
	"testing"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

func TestGranted_OncePerAgent(t *testing.T) {
	built := 0
	a := &granted[string]{answer: "answer"}
	build := func(id string) func(string) (grant, *refusal) {
		return func(answer string) (grant, *refusal) {
			if answer != "answer" {
				t.Errorf("answer %q", answer)
			}
			built++
			return grant{identity: &kubernetesapi.ImpersonationConfig{Username: id}}, nil
		}
	}
	for range 2 {
		for id, agent := range map[string]int64{"one": 1, "two": 2} {
			g, why := a.grant(agent, build(id))
			if why != nil {
				t.Fatal(why.msg)
			}
			extra := &kubernetesapi.HeaderExtra{}
			if err := g.extra.UnmarshalTo(extra); err != nil || g.identity.Username != id || extra.ImpConfig.Username != id {
				t.Errorf("agent %d: %v, %v, %v", agent, g.identity, extra, err)
			}
		}
	}
	if built != 2 {
		t.Errorf("built %d times, want 2", built)
	}
}

func TestGranted_RefusalsAreNotKept(t *testing.T) {
	a := &granted[string]{}
	if _, why := a.grant(1, func(string) (grant, *refusal) { return grant{}, noIdentity(errors.New("broken")) }); why == nil {
		t.Error("no refusal")
	}
	bad := grant{identity: &kubernetesapi.ImpersonationConfig{Username: "\xff"}}
	if _, why := a.grant(1, func(string) (grant, *refusal) { return bad, nil }); why == nil {
		t.Error("an identity that cannot be written is granted")
	}
	if len(a.grants) > 0 {
		t.Errorf("kept %v", a.grants)
	}
	if g, why := a.grant(1, func(string) (grant, *refusal) { return grant{username: "own"}, nil }); why != nil || g.extra != nil {
		t.Errorf("without an identity: %+v, %v", g, why)
	}
}
