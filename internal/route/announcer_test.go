package route

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func (f *fleet) locations() []string {
	f.t.Helper()
	urls, err := f.store.Tunnels(context.Background(), agentID)
	if err != nil {
		f.t.Fatal(err)
	}
	return urls
}

func TestAnnouncer_AgentComesAndGoes(t *testing.T) {
	f := newFleet(t)
	r := f.start(time.Now())
	stop := r.agent(10, echo)
	f.located(1)
	if got := f.locations(); got[0] != r.url {
		t.Errorf("announced as %q, want %q", got, r.url)
	}
	stop()
	f.located(0)
}

// An agent that is back before its entry is withdrawn costs the store nothing.
func TestAnnouncer_ShortAbsenceIsNotTold(t *testing.T) {
	f := newFleet(t)
	r := f.start(time.Now())
	r.announcer.cfg.Linger = time.Hour // read by the announcer's goroutine only after the agent has come and gone
	stop := r.agent(10, echo)
	f.located(1)
	stop()
	eventually(t, "the agent is gone", func() bool { return !r.registry.Presence(agentID).Connected })
	r.agent(10, echo)
	eventually(t, "the agent is back", func() bool { return r.registry.Presence(agentID).Connected })
	if got := len(f.locations()); got != 1 {
		t.Errorf("%d locations", got)
	}
	if got := f.store.writes.Load(); got != 1 {
		t.Errorf("%d writes", got)
	}
}

func TestAnnouncer_StoreFails(t *testing.T) {
	f := newFleet(t)
	broken := errors.New("READONLY")
	f.store.broken.Store(&broken)
	r := f.start(time.Now())
	r.agent(10, echo)
	eventually(t, "the failure is counted", func() bool { return testutil.ToFloat64(r.announcer.failures) > 1 })
	if err := r.whole(); err != nil {
		t.Errorf("the agent is not served: %v", err)
	}
	f.store.broken.Store(nil)
	f.located(1)
}

func TestAnnouncer_WithdrawsAtTheStop(t *testing.T) {
	f := newFleet(t)
	r := f.start(time.Now())
	r.agent(10, echo)
	f.located(1)
	r.leave()
	if got := f.locations(); len(got) != 0 {
		t.Errorf("%q stay", got)
	}
	if err := r.whole(); err != nil {
		t.Errorf("the agent is not served while kas drains: %v", err)
	}
}

func TestNewAnnouncer_Incomplete(t *testing.T) {
	if _, err := NewAnnouncer(AnnouncerConfig{}); err == nil {
		t.Error("accepted")
	}
}
