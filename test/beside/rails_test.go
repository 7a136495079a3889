package beside

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
)

// troubles are the ways in which Rails can answer, and the status that a job and a user get for each.
var troubles = []struct {
	name      string
	fault     gitlab.Fault
	job, user int
}{
	{"400", gitlab.Fault{Status: 400}, 500, 500},
	{"401", gitlab.Fault{Status: 401}, 401, 401},
	{"403", gitlab.Fault{Status: 403}, 403, 401},
	{"404", gitlab.Fault{Status: 404}, 404, 401},
	{"429", gitlab.Fault{Status: 429}, 500, 500},
	{"500", gitlab.Fault{Status: 500}, 500, 500},
	{"slow", gitlab.Fault{Delay: time.Second}, 200, 200},
	{"malformed", gitlab.Malformed(), 500, 500},
	{"10MB", gitlab.Huge(), 500, 500},
}

func TestRails_AllowedAgentsAndUser_Outcomes(t *testing.T) {
	t.Parallel()
	b := start(t, "rails-outcomes", options{agent: "kubernetes_api: {allowed_agent_cache_ttl: 0s}"})
	for _, tt := range troubles {
		for _, who := range []struct {
			endpoint      gitlab.Endpoint
			authorization string
			want          int
		}{
			{gitlab.AllowedAgents, b.asJob(), tt.job},
			{gitlab.AuthorizeProxyUser, b.asUser(), tt.user},
		} {
			t.Run(string(who.endpoint)+"/"+tt.name, func(t *testing.T) {
				had := b.configuration()
				b.gl.Break(who.endpoint, tt.fault)
				code, body, err := b.get(t.Context(), who.authorization)
				if err != nil || code != who.want {
					t.Errorf("%d %s, %v, want %d", code, body, err, who.want)
				}
				if secret := who.authorization[strings.LastIndexByte(who.authorization, ':')+1:]; strings.Contains(body, secret) {
					t.Errorf("a secret in %s", body)
				}
				b.gl.Mend(who.endpoint)
				if err := b.answers(who.authorization); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				b.keeps(had)
			})
		}
	}
}

// quickly makes kas ask about agents every second.
const quickly = "info_cache_ttl: 1s, info_cache_error_ttl: 1s"

// An agent notices nothing of answers that are not a no: GitLab is asked about its token, and it serves on.
func TestRails_AgentInfo_TroubleDoesNotReachTheAgent(t *testing.T) {
	t.Parallel()
	b := start(t, "rails-trouble", options{agent: quickly})
	for _, tt := range troubles {
		if tt.job == 401 || tt.job == 403 || tt.job == 404 {
			continue // these are a no
		}
		t.Run(tt.name, func(t *testing.T) { b.ride(t, tt.fault) })
	}
	t.Run("not the secret of kas", func(t *testing.T) {
		b.ride(t, gitlab.Fault{Status: http.StatusUnauthorized, Message: "401 Unauthorized - KAS JWT authentication invalid"})
		if n := strings.Count(b.kasLog(), "gitlab.authentication_secret_file"); n != 1 {
			t.Errorf("the log names the secret's file %d times", n)
		}
	})
}

// ride breaks agent_info, waits until it was asked for twice, and wants the agent to serve all the time.
func (b *bed) ride(t *testing.T, fault gitlab.Fault) {
	had, before := b.configuration(), len(b.gl.Requests(gitlab.AgentInfo))
	b.gl.Break(gitlab.AgentInfo, fault)
	b.eventually("kas asks about the agent", func() error {
		if err := b.answers(b.asJob()); err != nil {
			t.Errorf("meanwhile: %v", err)
		}
		if n := len(b.gl.Requests(gitlab.AgentInfo)) - before; n < 2 {
			return fmt.Errorf("asked %d times", n)
		}
		return nil
	})
	b.keeps(had)
	b.gl.Mend(gitlab.AgentInfo)
	mended := len(b.gl.Requests(gitlab.AgentInfo))
	b.eventually("GitLab has answered again", func() error {
		requests := b.gl.Requests(gitlab.AgentInfo)
		if len(requests) == mended || requests[mended].Status != http.StatusOK {
			return errors.New("not yet")
		}
		return nil
	})
	b.awaitApplied(b.push())
	if strings.Contains(b.kasLog(), "Agent token is no longer valid") {
		t.Error("the agent was cut off")
	}
}

// A no cuts the agent off, and it keeps its configuration until it is let in again.
func TestRails_AgentInfo_RefusalLeavesTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, code := range []int{401, 403, 404} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			b := start(t, fmt.Sprint("rails-", code), options{agent: quickly})
			had := b.configuration()
			b.gl.Break(gitlab.AgentInfo, gitlab.Fault{Status: code})
			b.awaitLog("the agent is cut off", b.kasLog, "Agent token is no longer valid")
			b.notify() // so that kas looks, and refuses, the configuration stream too
			b.awaitLog("the configuration stream ends", b.agentLog, "Configuration stream ended")
			b.keeps(had)
			b.gl.Mend(gitlab.AgentInfo)
			b.eventually("the agent is back", func() error { return b.answers(b.asJob()) })
			b.keeps(had)
			if code == http.StatusUnauthorized { // an agent takes its time before it asks again, too long to await it thrice
				b.awaitApplied(b.push())
			}
		})
	}
}
