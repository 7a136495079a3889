package gitlab

import (
	"net/http"
	"sync/atomic"
	"testing"

	"gitlab.com/agentk/agentk/internal/fault"
)

// reads answers as a GitLab that finds the agent's token in one header only and minds the others not at all.
func reads(header, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get(header) != value {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		ok(agentInfoJSON)(w, req)
	}
}

func TestAgentToken_Generations(t *testing.T) {
	for _, tc := range []struct {
		name          string
		header, value string
		first, then   int // requests
	}{
		{"before 17.2", "Authorization", "Bearer " + agentToken, 2, 1},
		{"from 17.2", "Gitlab-Agentk-Api-Request", agentToken, 1, 1},
		{"from 18.3", "Gitlab-Agent-Api-Request", agentToken, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRails(t, reads(tc.header, tc.value))
			c := r.start()
			for i, want := range []int{tc.first, tc.then, tc.then} {
				r.set(reads(tc.header, tc.value))
				if _, err := c.AgentByToken(within(t), agentToken); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
				if n := len(r.requests()); n != want {
					t.Errorf("call %d took %d requests, want %d", i, n, want)
				}
			}
		})
	}
}

// TestAgentToken_AuthorizationMisread: a GitLab that takes Authorization for a user's token must not get to see it.
func TestAgentToken_AuthorizationMisread(t *testing.T) {
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reads(headerAgentk, agentToken)(w, req)
	})
	c := r.start()
	if _, err := c.AgentByToken(within(t), agentToken); err != nil {
		t.Fatal(err)
	}
	// An upgrade from a GitLab that wanted Authorization.
	c.form.Store(formBearer)
	for range 2 {
		if _, err := c.AgentByToken(within(t), agentToken); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.requests()); n != 4 || c.form.Load() != formHeader {
		t.Errorf("%d requests, form %d", n, c.form.Load())
	}
}

// TestAgentToken_Refused: a bad token says nothing about the form, and costs one request once the form is known.
func TestAgentToken_Refused(t *testing.T) {
	r := newRails(t, bare(http.StatusUnauthorized))
	c := r.start()
	for _, tc := range []struct {
		form tokenForm
		want int
	}{{formUnknown, 2}, {formHeader, 1}, {formBearer, 2}} {
		r.set(bare(http.StatusUnauthorized))
		c.form.Store(tc.form)
		if _, err := c.AgentByToken(within(t), agentToken); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("got %v", err)
		}
		if n := len(r.requests()); n != tc.want || c.form.Load() != tc.form || c.Old() != (tc.form == formBearer) {
			t.Errorf("form %d: %d requests, then form %d", tc.form, n, c.form.Load())
		}
	}
}

// TestAgentToken_TroubleIsNoRefusal: when the second form meets trouble, the token is not called bad.
func TestAgentToken_TroubleIsNoRefusal(t *testing.T) {
	for _, trouble := range []http.HandlerFunc{bare(500), bare(429), func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }} {
		r := newRails(t, inTurn(bare(401), trouble))
		if _, err := r.start().AgentByToken(within(t), agentToken); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("got %v", err)
		}
	}
}

func TestAddress_User(t *testing.T) {
	var got atomic.Value
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		got.Store(user + ":" + password)
		ok(allowedJSON)(w, req)
	})
	r.Start()
	c := r.client(func(cfg *Config) { cfg.Address = "http://kas:pa55word@" + r.Listener.Addr().String() })
	if _, err := c.AllowedAgents(within(t), jobToken); err != nil || got.Load() != "kas:pa55word" {
		t.Errorf("got %v, %v", got.Load(), err)
	}
	if path := r.requests()[0].path; path != "/api/v4/job/allowed_agents" {
		t.Errorf("path %s", path)
	}
}
