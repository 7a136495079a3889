package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// eventTimeout bounds the publishing of one event.
const eventTimeout = 15 * time.Second

// state tells the outside whether the newest configuration is in use. Its methods are called by one goroutine.
type state struct {
	log     *zap.Logger
	ok      prometheus.Gauge
	since   prometheus.Gauge
	refused string // the reason while the newest configuration is refused
	events  Events
	pending chan Event // holds the newest one only
}

func newState(events Events, log *zap.Logger, registerer prometheus.Registerer) (*state, error) {
	s := &state{
		log: log,
		ok: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_config_valid",
			Help: "0 while the newest configuration of the agent is refused and an older one is in use",
		}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_config_last_applied_timestamp_seconds",
			Help: "When a configuration was last applied, in seconds since 1970; 0 before the first",
		}),
		events:  events,
		pending: make(chan Event, 1),
	}
	s.ok.Set(1)
	if registerer == nil {
		return s, nil
	}
	for _, c := range []prometheus.Collector{s.ok, s.since} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// valid notes that the newest configuration is in use: applied now, or known to be the newest still.
func (s *state) valid(commit string, applied bool) {
	s.ok.Set(1)
	if applied {
		s.since.SetToCurrentTime()
		s.log.Info("Configuration applied", zap.String("commit_id", commit))
	}
	if s.refused == "" {
		return
	}
	s.refused = ""
	if !applied {
		s.log.Info("Configuration in use is the newest again", zap.String("commit_id", commit))
	}
	s.emit(Event{Reason: ReasonApplied, Message: "The agent's configuration is valid again. Commit " + commit + " is in use."})
}

// invalid notes that the newest configuration is refused. The same refusal again is for the debug log only: it comes with every
// attempt until the user has mended the file.
func (s *state) invalid(reason string) {
	s.ok.Set(0)
	log := s.log.Debug
	if s.refused != reason {
		log = s.log.Warn
	}
	s.refused = reason
	log("Configuration refused, the last good one stays in use", zap.String("reason", reason))
	s.emit(Event{Warning: true, Reason: ReasonInvalid, Message: reason})
}

// emit replaces what is pending: the newest state is what the user needs.
func (s *state) emit(e Event) {
	if s.events == nil {
		return
	}
	select {
	case <-s.pending:
	default:
	}
	s.pending <- e
}

// run publishes events, so that an API server that does not answer holds up no configuration.
func (s *state) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.pending:
			s.publish(ctx, e)
		}
	}
}

func (s *state) publish(ctx context.Context, e Event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	s.events.Emit(ctx, e)
}
