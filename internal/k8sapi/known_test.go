package k8sapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

func someone(n int) *kubernetesapi.ImpersonationConfig {
	return &kubernetesapi.ImpersonationConfig{
		Username: fmt.Sprintf("gitlab:ci_job:%d", n), Groups: []string{"gitlab:ci_job", "gitlab:project:42"},
		Extra: []*kubernetesapi.ExtraKeyVal{{Key: "agent.gitlab.com/id", Val: []string{"7"}}, {Key: "agent.gitlab.com/ci_job_id", Val: []string{"1"}}},
	}
}

// What is remembered is what is read, for everybody, whoever came before.
func TestKnownIdentities(t *testing.T) {
	k := knownIdentities{}
	for round := range 2 {
		for n := range maxKnown + maxKnown/2 {
			got, err := k.read(identity(t, someone(n)))
			if err != nil {
				t.Fatal(err)
			}
			want := http.Header{}
			if err := writeIdentity(want, someone(n)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.identity); diff != "" {
				t.Fatalf("round %d, %d: %s", round, n, diff)
			}
			if len(k.byValue) == 0 || len(k.byValue) > maxKnown {
				t.Fatalf("%d are known", len(k.byValue))
			}
		}
	}
	first, err := k.read(identity(t, someone(0)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.read(identity(t, someone(0))); err != nil || again != first {
		t.Error("nothing is remembered")
	}
}

func TestKnownIdentities_NotRemembered(t *testing.T) {
	large := someone(0)
	large.Groups = append(large.Groups, strings.Repeat("g", maxKnownSize))
	elsewhere := identity(t, someone(0))
	elsewhere.TypeUrl = "elsewhere/gitlab.agent.kubernetes_api.rpc.HeaderExtra"
	for name, x := range map[string]*anypb.Any{
		"none":     nil,
		"refused":  identity(t, &kubernetesapi.ImpersonationConfig{Groups: []string{"g"}}),
		"garbage":  {TypeUrl: extraType, Value: []byte{0xff}},
		"one path": extra(t, &kubernetesapi.HeaderExtra{ImpConfig: someone(0), EscapedPath: "/a%2Fb"}),
		"large":    identity(t, large),
		"type url": elsewhere,
	} {
		k := knownIdentities{}
		said, err := k.read(x)
		if (name == "garbage") != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && ((said.identity == nil) != (x == nil) || (said.invalid != nil) != (name == "refused")) {
			t.Errorf("%s: %v", name, said)
		}
		if len(k.byValue) != 0 {
			t.Errorf("%s is remembered", name)
		}
	}
}

// A request changes nothing for the next one with the same identity.
func TestClient_SameIdentityTwice(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, identityOf)})
	x := identity(t, someone(1))
	_, first := body(t, c, get(t, "/"), x)
	wantRefused(t, c, get(t, "/", "Impersonate-Group", "admins"), x, "nested impersonation")
	if _, again := body(t, c, get(t, "/"), x); again != first {
		t.Error(cmp.Diff(first, again))
	}
	if _, none := body(t, c, get(t, "/"), nil); none != "Authorization: Bearer agent-token" {
		t.Error(none)
	}
}

func BenchmarkIdentity(b *testing.B) {
	x, err := anypb.New(&kubernetesapi.HeaderExtra{ImpConfig: someone(1)})
	if err != nil {
		b.Fatal(err)
	}
	k := knownIdentities{}
	for name, read := range map[string]func(*anypb.Any) (*saidExtra, error){"known": k.read, "new": readExtra} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
