package k8sproxy_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
)

// agentLost is how the stream of a call fails whose agent is gone.
type agentLost struct{}

func (agentLost) Error() string              { return agentLost{}.GRPCStatus().Err().Error() }
func (agentLost) GRPCStatus() *status.Status { return status.New(codes.Canceled, "agent disconnected") }
func (agentLost) Is(target error) bool       { return target == httpgrpc.ErrLost }

// A request that changes nothing is sent again when its agent's connection is lost before the answer; nothing else is.
func TestLost_SafeRequestIsRepeated(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		header             []string
		losses             int32
		status, calls      int
	}{
		{"GET", "GET", "", nil, 1, 200, 2},
		{"HEAD", "HEAD", "", nil, 1, 200, 2},
		{"GET thrice", "GET", "", nil, 3, 200, 4},
		{"GET always", "GET", "", nil, 100, 502, 4},
		{"GET with a body", "GET", "x", nil, 1, 502, 1},
		{"POST", "POST", "", nil, 1, 502, 1},
		{"DELETE", "DELETE", "", nil, 1, 502, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var losses atomic.Int32
			l := newLine(t, func(a *agenttest.Agent) error {
				if _, _, err := a.Whole(); err != nil {
					return err
				}
				if losses.Add(1) <= tt.losses {
					return agentLost{}
				}
				return a.Answer(200, "")
			})
			got := l.doBody(tt.method, "/version", strings.NewReader(tt.body), append(tt.header, "Authorization", ciBearer)...)
			if got.StatusCode != tt.status || l.opened() != tt.calls {
				t.Errorf("status %d over %d calls, want %d over %d", got.StatusCode, l.opened(), tt.status, tt.calls)
			}
			if lines := l.logs.FilterMessage("Kubernetes API request").All(); tt.status == 200 && len(lines) == 1 && lines[0].ContextMap()["error"] != nil {
				t.Errorf("an error is logged: %v", lines[0].ContextMap())
			}
		})
	}
}
