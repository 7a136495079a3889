package agentk

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"gitlab.com/agentk/agentk/internal/kasdial"
)

func TestLink(t *testing.T) {
	log, out := newLog(t)
	l := newLink("wss://kas.example/path?secret", log.Logger, prometheus.NewRegistry())
	check := func(what string, ready bool, gauge float64) {
		t.Helper()
		if err := l.ready(t.Context()); (err == nil) != ready {
			t.Errorf("%s: %v", what, err)
		}
		if got := testutil.ToFloat64(l.gauge); got != gauge {
			t.Errorf("%s: gauge is %v", what, got)
		}
	}
	check("at start", false, 0)
	l.changed(kasdial.Event{Change: kasdial.AttemptFailed, Reason: errors.New("refused")})
	check("after a failed attempt", false, 0)
	l.beat()
	l.changed(kasdial.Event{Change: kasdial.Connected})
	check("connected", true, 1)
	if len(l.reconnected) != 0 {
		t.Error("the first connection is no reconnection")
	}
	l.beat()
	l.changed(kasdial.Event{Change: kasdial.Disconnected, Reason: errors.New("lost")})
	check("lost a moment ago", true, 0)
	l.changed(kasdial.Event{Change: kasdial.AttemptFailed, Reason: errors.New("refused")})
	l.since = l.since.Add(-2 * time.Minute)
	check("lost long ago", false, 0)
	for range 3 {
		l.changed(kasdial.Event{Change: kasdial.Connected})
		l.changed(kasdial.Event{Change: kasdial.Disconnected})
	}
	if len(l.reconnected) != 1 {
		t.Error("reconnection is not told")
	}
	for _, want := range []string{`"msg":"Not connected to kas"`, `"reason":"refused"`, `"msg":"Connected to kas","kas_address":"wss://kas.example/path"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("the query is logged")
	}
}
