package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

// FallbackConfig configures a Fallback.
type FallbackConfig struct {
	// Shared is the store of all replicas.
	Shared Shared
	// Local has to be empty and used by nobody else.
	Local *Memory
	// Log gets what the fallback does; nil means none.
	Log *zap.Logger
	// Registerer gets the metrics; nil means no metrics.
	Registerer prometheus.Registerer
}

// Fallback is a shared store that this process can do without. Everything this process writes is kept here as well, so that an outage
// of the shared store takes nothing from those who are connected to this replica, and everything is written anew once it is over.
// While the shared store fails
//
//   - limits are counted in this process: each replica then admits the whole limit;
//   - lists and locations are those that this process has written: complete for this replica, silent about all others. Only Watch
//     goes on with the last known locations of the others, for whoever dials one learns soon enough whether it is right;
//   - push events reach the subscribers of this process at once and the other replicas when the outage is over;
//   - no call returns an error.
//
// State and the metrics say that it is so. A shared store that answers but takes nothing (it is full) is still read: lists are then what
// it has and what this process has.
type Fallback struct {
	shared Shared
	local  *Memory
	log    *zap.Logger

	alone   *prometheus.CounterVec
	rewrote *prometheus.CounterVec

	// wake tells Run that the shared store is behind.
	wake chan struct{}

	// mu guards all below.
	mu     sync.Mutex
	behind bool // something that this process has written is not in the shared store
	owed   int  // how often the shared store failed to be told something
	// What is to be removed there, and the events to be told.
	gone   map[connectionKey]struct{}
	closed map[locationKey]struct{}
	pushes map[string]struct{}
}

// locationKey finds a location of an agent.
type locationKey struct {
	agent int64
	url   string
}

var _ Store = (*Fallback)(nil)

// NewFallback returns a Fallback. It works before Run.
func NewFallback(cfg FallbackConfig) *Fallback {
	f := &Fallback{
		shared: cfg.Shared,
		local:  cfg.Local,
		log:    cfg.Log,
		alone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_store_alone_total",
			Help: "Calls that were done with what this kas knows alone, because the shared store failed",
		}, []string{"operation"}),
		rewrote: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_store_rewrites_total",
			Help: "Times that this kas wrote all it has into the shared store anew, by result",
		}, []string{"result"}),
		wake:   make(chan struct{}, 1),
		gone:   map[connectionKey]struct{}{},
		closed: map[locationKey]struct{}{},
		pushes: map[string]struct{}{},
	}
	if f.log == nil {
		f.log = zap.NewNop()
	}
	if cfg.Registerer != nil {
		degraded := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kas_store_degraded",
			Help: "1 while something is wrong with the shared store",
		}, func() float64 {
			if f.shared.State().Trouble != "" {
				return 1
			}
			return 0
		})
		cfg.Registerer.MustRegister(f.alone, f.rewrote, degraded)
	}
	return f
}

// State says how the shared store does.
func (f *Fallback) State() State { return f.shared.State() }

// Ready is an error until the shared store has answered for the first time. What happens to it later does not make this replica less
// ready: see State.
func (f *Fallback) Ready(context.Context) error {
	if s := f.shared.State(); !s.Answered {
		return errors.New(s.Trouble)
	}
	return nil
}

// failed notes that the shared store failed.
func (f *Fallback) failed(operation string, err error) {
	f.alone.WithLabelValues(operation).Inc()
	f.log.Debug("The shared store failed", zap.String("operation", operation), zap.Error(err))
}

// owe notes what the shared store has to be told later.
func (f *Fallback) owe(operation string, err error, note func()) {
	f.failed(operation, err)
	f.mu.Lock()
	note()
	f.behind = true
	f.owed++
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// maxOwed bounds what is to be removed and told later, each. What does not fit ends by its time to live.
const maxOwed = 10_000

func remember[K comparable](m map[K]struct{}, key K) {
	if len(m) < maxOwed {
		m[key] = struct{}{}
	}
}

// RegisterAgent implements Agents.
func (f *Fallback) RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error {
	if err := f.local.RegisterAgent(ctx, info, ttl); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.gone, connectionKey{agent: info.AgentId, connection: info.ConnectionId})
	f.mu.Unlock()
	if err := f.shared.RegisterAgent(ctx, info, ttl); err != nil {
		f.owe("register", err, func() {})
	}
	return nil
}

// UnregisterAgent implements Agents.
func (f *Fallback) UnregisterAgent(ctx context.Context, agentID, connectionID int64) error {
	if err := f.local.UnregisterAgent(ctx, agentID, connectionID); err != nil {
		return err
	}
	if err := f.shared.UnregisterAgent(ctx, agentID, connectionID); err != nil {
		f.owe("unregister", err, func() { remember(f.gone, connectionKey{agent: agentID, connection: connectionID}) })
	}
	return nil
}

// AddTunnel implements Tunnels.
func (f *Fallback) AddTunnel(ctx context.Context, agentID int64, url string, ttl time.Duration) error {
	f.hold(ctx, url, ttl, agentID)
	if err := f.shared.AddTunnel(ctx, agentID, url, ttl); err != nil {
		f.owe("add_tunnel", err, func() {})
	}
	return nil
}

// RefreshTunnels implements Tunnels.
func (f *Fallback) RefreshTunnels(ctx context.Context, url string, ttl time.Duration, agentIDs ...int64) error {
	f.hold(ctx, url, ttl, agentIDs...)
	if err := f.shared.RefreshTunnels(ctx, url, ttl, agentIDs...); err != nil {
		f.owe("refresh_tunnels", err, func() {})
	}
	return nil
}

func (f *Fallback) hold(ctx context.Context, url string, ttl time.Duration, agentIDs ...int64) {
	_ = f.local.RefreshTunnels(ctx, url, ttl, agentIDs...) // memory never fails
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range agentIDs {
		delete(f.closed, locationKey{agent: id, url: url})
	}
}

// RemoveTunnel implements Tunnels.
func (f *Fallback) RemoveTunnel(ctx context.Context, agentID int64, url string) error {
	if err := f.local.RemoveTunnel(ctx, agentID, url); err != nil {
		return err
	}
	if err := f.shared.RemoveTunnel(ctx, agentID, url); err != nil {
		f.owe("remove_tunnel", err, func() { remember(f.closed, locationKey{agent: agentID, url: url}) })
	}
	return nil
}

// Publish implements Events.
func (f *Fallback) Publish(ctx context.Context, projectPath string) error {
	if err := f.shared.Publish(ctx, projectPath); err != nil {
		f.owe("publish", err, func() { remember(f.pushes, projectPath) })
	}
	return nil
}

// Subscribe implements Events.
func (f *Fallback) Subscribe(ctx context.Context) (<-chan string, error) {
	return f.shared.Subscribe(ctx)
}

// Allow implements Limits. The counts of this process begin when the shared store fails.
func (f *Fallback) Allow(ctx context.Context, key string, limit uint32, window time.Duration) (bool, error) {
	ok, err := f.shared.Allow(ctx, key, limit, window)
	if err == nil {
		return ok, nil
	}
	f.failed("allow", err)
	return f.local.Allow(ctx, key, limit, window)
}

// Refuse implements Refusals. What the shared store does not take is known to this process, and not told later: it is soon over.
func (f *Fallback) Refuse(ctx context.Context, key, reason string, ttl time.Duration) error {
	if err := f.shared.Refuse(ctx, key, reason, ttl); err != nil {
		f.failed("refuse", err)
		return f.local.Refuse(ctx, key, reason, ttl)
	}
	return nil
}

// Refused implements Refusals.
func (f *Fallback) Refused(ctx context.Context, key string) (string, time.Duration, error) {
	reason, left, err := f.shared.Refused(ctx, key)
	if err != nil {
		f.failed("refused", err)
		return f.local.Refused(ctx, key)
	}
	return reason, left, nil
}

// AgentsByID implements Agents.
func (f *Fallback) AgentsByID(ctx context.Context, agentIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	return f.agents("agents_by_id", func(a Agents) ([]*agenttracker.ConnectedAgentInfo, error) { return a.AgentsByID(ctx, agentIDs...) })
}

// AgentsByProject implements Agents.
func (f *Fallback) AgentsByProject(ctx context.Context, projectIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	return f.agents("agents_by_project", func(a Agents) ([]*agenttracker.ConnectedAgentInfo, error) {
		return a.AgentsByProject(ctx, projectIDs...)
	})
}

// AllAgents implements Agents.
func (f *Fallback) AllAgents(ctx context.Context) ([]*agenttracker.ConnectedAgentInfo, error) {
	return f.agents("all_agents", func(a Agents) ([]*agenttracker.ConnectedAgentInfo, error) { return a.AllAgents(ctx) })
}

// CountByVersion implements Agents.
func (f *Fallback) CountByVersion(ctx context.Context) (map[string]int64, error) {
	list, err := f.AllAgents(ctx)
	if err != nil {
		return nil, err
	}
	return CountVersions(list), nil
}

type agentList = []*agenttracker.ConnectedAgentInfo

// agents is what the shared store lists and, where that is not whole, what this process knows.
func (f *Fallback) agents(operation string, ask func(Agents) (agentList, error)) (agentList, error) {
	list, err := ask(f.shared)
	if err == nil && !f.isBehind() {
		return list, nil
	}
	if err != nil {
		f.failed(operation, err)
		list = nil
	}
	own, err := ask(f.local)
	if err != nil {
		return nil, err
	}
	known := map[connectionKey]struct{}{}
	for _, i := range list {
		known[connectionKey{agent: i.AgentId, connection: i.ConnectionId}] = struct{}{}
	}
	for _, i := range own {
		if _, ok := known[connectionKey{agent: i.AgentId, connection: i.ConnectionId}]; !ok {
			list = append(list, i)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(list, func(i *agenttracker.ConnectedAgentInfo) bool {
		_, gone := f.gone[connectionKey{agent: i.AgentId, connection: i.ConnectionId}]
		return gone
	}), nil
}

func (f *Fallback) isBehind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.behind
}

// LastSeen implements Agents.
func (f *Fallback) LastSeen(ctx context.Context, agentID int64) (time.Time, bool, error) {
	own, known, err := f.local.LastSeen(ctx, agentID)
	if err != nil {
		return time.Time{}, false, err
	}
	at, ok, err := f.shared.LastSeen(ctx, agentID)
	if err != nil {
		f.failed("last_seen", err)
		return own, known, nil
	}
	if known && (!ok || own.After(at)) {
		return own, true, nil
	}
	return at, ok, nil
}

// Tunnels implements Tunnels.
func (f *Fallback) Tunnels(ctx context.Context, agentID int64) ([]string, error) {
	own, err := f.local.Tunnels(ctx, agentID)
	if err != nil {
		return nil, err
	}
	list, err := f.shared.Tunnels(ctx, agentID)
	if err != nil {
		f.failed("tunnels", err)
		return own, nil
	}
	return f.merge(agentID, list, own), nil
}

// merge is the sorted union of locations, without those that were removed here and not there yet.
func (f *Fallback) merge(agentID int64, shared, own []string) []string {
	list := slices.Concat(shared, own)
	slices.Sort(list)
	list = slices.Compact(list)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.closed) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(url string) bool {
		_, closed := f.closed[locationKey{agent: agentID, url: url}]
		return closed
	})
}

// Watch implements Tunnels.
func (f *Fallback) Watch(ctx context.Context, agentID int64) <-chan []string {
	shared, own := f.shared.Watch(ctx, agentID), f.local.Watch(ctx, agentID)
	w := &watcher{ch: make(chan []string, 1)}
	// The goroutine belongs to ctx: the closed channel says that it has ended.
	go func() {
		defer close(w.ch)
		// The list of this process is there at once; that of the shared store says when the whole is known.
		mine := <-own
		theirs, open := <-shared
		for open {
			w.offer(f.merge(agentID, theirs, mine))
			select {
			case theirs, open = <-shared:
			case mine, open = <-own:
			}
		}
		for range shared {
		}
		for range own {
		}
	}()
	return w.ch
}
