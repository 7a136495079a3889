package gitlab

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
)

// A secret that differs is the operator's mistake: nobody else is refused for it, and the log says it once a minute.
func TestDisowned_IsNoRefusal(t *testing.T) {
	for _, e := range endpoints() {
		if e.name == endpointAllowedAgents { // the only one without a proof
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			r := newRails(t, text(http.StatusUnauthorized, "application/json", `{"message":"401 Unauthorized - KAS JWT authentication invalid"}`))
			logs, observed := observer.New(zap.InfoLevel)
			c := r.start(func(cfg *Config) { cfg.Log = zap.New(logs) })
			for range 3 {
				got, err := e.call(within(t), c)
				if st, _ := status.FromError(err); fault.KindOf(err) != fault.Unavailable || fault.HopOf(err) != fault.GitLab || st.Code() != codes.Unavailable || got == true {
					t.Fatalf("got %v, %v", got, err)
				}
				if e.agent && status.Convert(err).Message() != "unavailable" {
					t.Errorf("the agent reads %q", status.Convert(err).Message())
				}
				noSecrets(t, "error", err.Error())
			}
			all := observed.All()
			if len(all) != 1 || all[0].Level != zap.ErrorLevel {
				t.Fatalf("log lines: %v", all)
			}
			for _, want := range []string{"gitlab.authentication_secret_file", "clock"} {
				if !strings.Contains(all[0].Message, want) {
					t.Errorf("%q does not name %q", all[0].Message, want)
				}
			}
			if file := all[0].ContextMap()["file"]; file != c.signer.path {
				t.Errorf("the file is %v", file)
			}
			if e.once && !e.agent && len(r.requests()) != 3 {
				t.Errorf("%d requests", len(r.requests()))
			}
			c.complain.Interval = time.Nanosecond
			if _, err := e.call(within(t), c); err == nil || observed.Len() != 2 {
				t.Errorf("after the pause: %v, %d log lines", err, observed.Len())
			}
		})
	}
}

// A job's token is sent without a proof, so what GitLab says about it is about the token, whatever its words.
func TestDisowned_NotForJobs(t *testing.T) {
	r := newRails(t, text(http.StatusUnauthorized, "application/json", `{"message":"KAS JWT authentication invalid"}`))
	if _, err := r.start().AllowedAgents(within(t), jobToken); fault.KindOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
}
