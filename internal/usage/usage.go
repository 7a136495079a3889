// Package usage tells GitLab how much its agents are used: counters, sets of ids that are counted once, and events. All of it is
// gathered in memory and sent from time to time; what GitLab did not take is kept and sent again, within bounds. None of it may
// ever hold up a request: the hooks only count.
package usage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// flushTimeout bounds the last report at shutdown.
	flushTimeout = 5 * time.Second
	// sendTimeout bounds any other.
	sendTimeout = 30 * time.Second
	// defaultMaxItems bounds each set of ids and each kind of events. A registration may have 1 KiB of text.
	defaultMaxItems = 20_000
)

// Reporter sends reports to GitLab. Errors are faults.
type Reporter interface {
	// PostUsage adds to GitLab's counters.
	PostUsage(ctx context.Context, counters map[string]int64, unique map[string][]int64) error
	// PostEvents sends events: a JSON object of lists, by kind of event.
	PostEvents(ctx context.Context, events any) error
}

// Config configures a Tracker.
type Config struct {
	Reporter Reporter
	// UsagePeriod is how often counters and sets are sent; 0: they are not gathered.
	UsagePeriod time.Duration
	// EventPeriod is how often events are sent; 0: they are not gathered.
	EventPeriod time.Duration
	// Old says that this GitLab is known to be older than 17.2: it counts the users of the proxy under a name that newer ones
	// refuse. nil: it is not known to be.
	Old func() bool
	// MaxItems bounds each set of ids and each kind of events; what is beyond is not reported. 0 is 20 000.
	MaxItems   int
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Tracker gathers and sends. Its hooks are safe for concurrent use and never wait for GitLab. A nil Tracker gathers nothing: that
// is what a kas without GitLab has.
type Tracker struct {
	cfg     Config
	dropped prometheus.Counter

	// mu guards the fields below.
	mu     sync.Mutex
	usage  counts
	events events
	// noEvents: this GitLab does not know events; noOldNames: it refuses the names that were in use up to 16.x.
	noEvents, noOldNames bool
}

// New returns a Tracker.
func New(cfg Config) (*Tracker, error) {
	switch {
	case cfg.Reporter == nil || cfg.Log == nil:
		return nil, errors.New("usage: Reporter and Log are required")
	case cfg.UsagePeriod < 0 || cfg.EventPeriod < 0:
		return nil, errors.New("usage: periods must not be negative")
	}
	if cfg.MaxItems == 0 {
		cfg.MaxItems = defaultMaxItems
	}
	if cfg.Old == nil {
		cfg.Old = func() bool { return false }
	}
	t := &Tracker{cfg: cfg, usage: newCounts(), events: newEvents(), dropped: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kas_usage_items_dropped_total",
		Help: "Ids and events that are not reported to GitLab because too many wait already",
	})}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(t.dropped); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// ProxyRequest counts an authorized request of a Kubernetes client. project is the agent's configuration project. Ids that are not
// known are 0.
func (t *Tracker) ProxyRequest(access Access, userID, agentID, projectID int64) {
	name, known := names[access]
	if t == nil || !known {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	dropped := 0
	if t.cfg.UsagePeriod > 0 {
		t.usage.counters[allRequests]++
		t.usage.counters[name.requests]++
		dropped += t.usage.see(name.users, userID, t.cfg.MaxItems)
		dropped += t.usage.see(name.agents, agentID, t.cfg.MaxItems)
		if !t.noOldNames && t.cfg.Old() {
			dropped += t.usage.see(tunnelUsers, userID, t.cfg.MaxItems)
		}
	}
	if t.gathersEvents() && userID > 0 && projectID > 0 {
		dropped += t.events.use(name.users, usedBy{UserID: userID, ProjectID: projectID}, t.cfg.MaxItems)
	}
	t.dropped.Add(float64(dropped))
}

// FluxNotified counts that Flux was told of a push to a project.
func (t *Tracker) FluxNotified(projectID int64) {
	if t == nil || t.cfg.UsagePeriod == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.usage.counters[fluxNotifications]++
	t.dropped.Add(float64(t.usage.see(fluxProjects, projectID, t.cfg.MaxItems)))
}

// GitopsSynced counts that files of a project were sent to be synchronised.
func (t *Tracker) GitopsSynced() {
	if t == nil || t.cfg.UsagePeriod == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.noOldNames {
		t.usage.counters[gitopsSyncs]++
	}
}

// Registered notes that a pod of an agent has registered. The same registration again, by any pod, changes nothing until the next
// report.
func (t *Tracker) Registered(agent backend.Agent, meta *entity.AgentMeta) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gathersEvents() {
		t.dropped.Add(float64(t.events.register(newRegistration(agent, meta), t.cfg.MaxItems)))
	}
}

// gathersEvents is called with mu held.
func (t *Tracker) gathersEvents() bool { return t.cfg.EventPeriod > 0 && !t.noEvents }

// Run sends reports until ctx ends, and then a last one, which takes five seconds at most.
func (t *Tracker) Run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	usage, stopUsage := ticks(t.cfg.UsagePeriod)
	defer stopUsage()
	events, stopEvents := ticks(t.cfg.EventPeriod)
	defer stopEvents()
	for {
		select {
		case <-usage:
			t.bounded(ctx, sendTimeout, t.sendUsage)
		case <-events:
			t.bounded(ctx, sendTimeout, t.sendEvents)
		case <-ctx.Done():
			t.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// flush sends both reports side by side, so that a slow answer to one does not cost the other.
func (t *Tracker) flush(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { t.bounded(ctx, flushTimeout, t.sendUsage) })
	both.Go(func() { t.bounded(ctx, flushTimeout, t.sendEvents) })
	both.Wait()
}

func (t *Tracker) bounded(ctx context.Context, limit time.Duration, send func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	send(ctx)
}

// ticks never come if the period is zero.
func ticks(period time.Duration) (<-chan time.Time, func()) {
	if period == 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(period)
	return ticker.C, ticker.Stop
}

// sendUsage sends what was gathered and takes it back when GitLab did not. What is gathered meanwhile is a new report.
func (t *Tracker) sendUsage(ctx context.Context) {
	t.mu.Lock()
	report := t.usage
	t.usage = newCounts()
	t.mu.Unlock()
	if report.empty() {
		return
	}
	err := t.postUsage(ctx, report)
	if err == nil {
		return
	}
	t.mu.Lock()
	dropped := t.usage.add(report, t.cfg.MaxItems)
	t.mu.Unlock()
	t.dropped.Add(float64(dropped))
	t.cfg.Log.Warn("Usage could not be reported to GitLab; it is kept for the next report", zap.Error(err))
}

// postUsage posts a report. A GitLab from 17.0 on refuses two names, and the whole report with them: it gets the rest.
func (t *Tracker) postUsage(ctx context.Context, report counts) error {
	err := t.cfg.Reporter.PostUsage(ctx, report.counters, report.lists())
	rest, old := report.withoutOldNames()
	if err == nil || fault.KindOf(err) != fault.Internal || !old {
		return err
	}
	if !rest.empty() {
		if err := t.cfg.Reporter.PostUsage(ctx, rest.counters, rest.lists()); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noOldNames = true
	t.usage, _ = t.usage.withoutOldNames()
	t.cfg.Log.Info("This GitLab does not count what GitLab up to 16 did; it is not reported from now on", zap.Strings("names", oldNames))
	return nil
}

func (t *Tracker) sendEvents(ctx context.Context) {
	t.mu.Lock()
	report := t.events
	t.events = newEvents()
	t.mu.Unlock()
	if report.empty() {
		return
	}
	err := t.cfg.Reporter.PostEvents(ctx, report.lists())
	if err == nil {
		return
	}
	unknown := fault.KindOf(err) == fault.NotFound
	t.mu.Lock()
	dropped := 0
	if unknown {
		t.noEvents = true
		t.events = newEvents()
	} else {
		dropped = t.events.add(report, t.cfg.MaxItems)
	}
	t.mu.Unlock()
	t.dropped.Add(float64(dropped))
	if unknown {
		t.cfg.Log.Info("This GitLab takes no agent events; none are sent from now on")
		return
	}
	t.cfg.Log.Warn("Agent events could not be reported to GitLab; they are kept for the next report", zap.Error(err))
}
