package kas_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/test/gitlab"
)

// troubles are the ways in which GitLab can answer, and what a proxy client sees of each of them.
var troubles = []struct {
	name  string
	fault gitlab.Fault
	// job and user are the codes for the two kinds of credentials; tries is how often GitLab is asked for one request.
	job, user, tries int
}{
	{"400", gitlab.Fault{Status: 400}, 500, 500, 1},
	{"401", gitlab.Fault{Status: 401}, 401, 401, 1},
	{"403", gitlab.Fault{Status: 403}, 403, 401, 1},
	{"404", gitlab.Fault{Status: 404}, 404, 401, 1},
	{"429", gitlab.Fault{Status: 429}, 500, 500, 5},
	{"500", gitlab.Fault{Status: 500}, 500, 500, 5},
	{"503", gitlab.Fault{Status: 503}, 500, 500, 5},
	{"slow", gitlab.Fault{Delay: 300 * time.Millisecond}, 200, 200, 1},
	{"malformed", gitlab.Malformed(), 500, 500, 1},
	{"10 MB", gitlab.Huge(), 500, 500, 1},
	{"HTML", gitlab.Fault{Status: 200, Body: []byte("<html>"), ContentType: "text/html"}, 500, 500, 1},
	{"cut off", gitlab.Fault{Cut: true}, 500, 500, 5},
}

func TestBeside_ProxyWhenGitLabAnswers(t *testing.T) {
	for _, tt := range troubles {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting between attempts
			b := besideGitLab(t, "")
			conn := dialAsStock(t, b.agentAddr, b.token.Value)
			b.configured(conn)
			b.ask(conn, gitlab.AllowedAgents, tt.fault, b.ciBearer(), tt.job, tt.tries)
			b.ask(conn, gitlab.AuthorizeProxyUser, tt.fault, "Bearer pat:7:"+b.pat.Value, tt.user, tt.tries)
		})
	}
}

// ask sends a request twice while an endpoint misbehaves. Refusals and answers are cached, failures are not.
func (b *beside) ask(conn *grpc.ClientConn, endpoint gitlab.Endpoint, fault gitlab.Fault, bearer string, want, tries int) {
	b.t.Helper()
	t := b.t
	b.gl.Break(endpoint, fault)
	defer b.gl.Mend(endpoint)
	before := len(b.gl.Requests(endpoint))
	for range 2 {
		if want == http.StatusOK {
			answerOne(t, conn)
		}
		resp, body := b.request("Authorization", bearer)
		marked := resp.Header.Get("Gitlab-Unauthorized") == "true"
		if resp.StatusCode != want || marked != (want == http.StatusUnauthorized) {
			t.Errorf("%s: %d %s", endpoint, resp.StatusCode, body)
		}
		if secret := bearer[strings.LastIndexByte(bearer, ':')+1:]; strings.Contains(body, secret) {
			t.Errorf("%s: a secret in %s", endpoint, body)
		}
	}
	if want == http.StatusInternalServerError {
		tries *= 2
	}
	if got := len(b.gl.Requests(endpoint)) - before; got != tries && !fault.Cut { // Go asks once more on a connection that was cut
		t.Errorf("%s: GitLab was asked %d times, want %d", endpoint, got, tries)
	}
}

// An agent keeps its stream and its configuration whatever GitLab answers, unless that is no.
func TestBeside_AgentWhenGitLabAnswers(t *testing.T) {
	b := besideGitLab(t, "agent: {configuration: {poll_period: 0.05s}, info_cache_ttl: 0s}")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	stream := b.configurations(conn)
	_, err := stream.Recv()
	must(t, err)
	for i, tt := range troubles {
		if tt.name == "401" || tt.name == "403" || tt.name == "404" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			before := len(b.gl.Requests(gitlab.AgentInfo))
			b.gl.Break(gitlab.AgentInfo, tt.fault)
			b.eventually("kas asks", func() bool { return len(b.gl.Requests(gitlab.AgentInfo)) > before })
			b.gl.Mend(gitlab.AgentInfo)
			// The push wakes a stream that waits to try again.
			group := fmt.Sprintf("acme/g%d", i)
			_, err := b.gl.PushConfig(t.Context(), 7, "ci_access: {groups: [{id: "+group+"}]}")
			must(t, err)
			got, err := stream.Recv()
			must(t, err)
			if groups := got.Configuration.CiAccess.GetGroups(); len(groups) != 1 || groups[0].Id != group {
				t.Errorf("got %v", got.Configuration)
			}
		})
	}
}
