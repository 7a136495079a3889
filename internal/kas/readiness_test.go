package kas

import (
	"context"
	"testing"
	"testing/synctest"

	"gitlab.com/agentk/agentk/internal/railsapi"
)

// Kas is not ready before each of its servers serves, and not any more once the first of them stops.
func TestReadiness_EveryServerServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.rails.server = &railsapi.Server{}
		if err := s.newReadiness(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready := func() bool { return s.ready.Check(t.Context()) == nil }
		if ready() {
			t.Error("ready before anything serves")
		}
		defer s.serving(t.Context(), agentServer)()
		if ready() {
			t.Error("ready without the API for Rails")
		}
		stopping, stop := context.WithCancel(t.Context())
		defer s.serving(stopping, apiServer)()
		if !ready() {
			t.Error("not ready although all servers serve")
		}
		stop()
		synctest.Wait()
		if ready() {
			t.Error("ready while a server stops")
		}
	})
}
