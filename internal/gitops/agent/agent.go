// Package agent is the half of GitOps that runs in agentk: it makes the cluster follow repositories. The configuration says what to
// follow; on the pod that leads there is a worker for each manifest project and each chart, which has a stream from kas open, and one
// child process, the engine, that renders and applies. What kas sends is passed on to the engine as it comes: agentk itself keeps
// nothing of a repository, and when the engine has to be started again, everything is asked for again.
//
// Nothing is ever run with a part missing: a source that cannot be read leaves the cluster as it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
)

// Elector chooses one pod of many.
type Elector interface {
	// Run takes part in the election until ctx ends, and calls lead while this pod is the one. lead returns soon after its context
	// has ended.
	Run(ctx context.Context, lead func(context.Context) error) error
}

// Config configures a Module. All fields are required unless they say otherwise.
type Config struct {
	// Client reaches kas.
	Client gitops.GitopsClient
	// Elect returns the election of the pods of an agent. It is called once.
	Elect func(agentID int64) (Elector, error)
	// Engine is the executable of the engine, and Memory how much it may take, in bytes.
	Engine string
	Memory int64
	// Access is how the engine reaches the API server; it is asked each time an engine is started.
	Access func() (child.Access, error)
	// PodName is that of this pod, in whose name Events are published.
	PodName string
	// ValuesURLs are the prefixes of URLs that values of charts may be read from.
	ValuesURLs []string
	// Transport reads such values. nil: with the trust and the proxies of the system.
	Transport http.RoundTripper
	// Notify, which may be nil, tells the user of a failure, best effort.
	Notify     func(ctx context.Context, reason, message string)
	Log        *zap.Logger
	Registerer prometheus.Registerer

	timing timing
}

// Module makes the cluster follow the configured repositories.
type Module struct {
	cfg     Config
	values  *valuesReader
	metrics *metrics
	// changed gets a value when wanted is another one.
	changed chan struct{}
	// elector is used by one participation at a time.
	elector    Elector
	quarantine *quarantine

	mu      sync.Mutex // guards all below
	agentID int64
	wanted  []unit
}

// New returns a Module. Errors name what of cfg is wrong.
func New(cfg Config) (*Module, error) {
	if cfg.Client == nil || cfg.Elect == nil || cfg.Engine == "" || cfg.Memory <= 0 || cfg.Access == nil || cfg.Log == nil || cfg.Registerer == nil {
		return nil, errors.New("GitOps: client, election, engine, memory limit, access, log and registerer are required")
	}
	cfg.timing.fill()
	values, err := newValuesReader(cfg.ValuesURLs, cfg.Transport, cfg.timing)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	return &Module{cfg: cfg, values: values, metrics: metrics, changed: make(chan struct{}, 1), quarantine: newQuarantine(cfg.timing.held)}, nil
}

// Name is what the log calls the module.
func (m *Module) Name() string { return "gitops" }

// Validate says what is wrong with the configuration.
func (m *Module) Validate(cfg *agentcfg.AgentConfiguration) error {
	_, err := newUnits(cfg, m.values)
	return err
}

// Apply makes the module follow a configuration that is valid.
func (m *Module) Apply(_ context.Context, cfg *agentcfg.AgentConfiguration) {
	units, err := newUnits(cfg, m.values)
	if err != nil {
		m.cfg.Log.Warn("Configuration is ignored", zap.Error(err)) // Validate has said the same
		return
	}
	m.mu.Lock()
	m.agentID, m.wanted = cfg.GetAgentId(), units
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Run follows the repositories until ctx ends, and returns nil then: only while there are some does this pod take part in the election,
// and only while it leads is there an engine.
func (m *Module) Run(ctx context.Context) error {
	defer m.values.close()
	var part *participation
	defer func() { part.stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		}
		_, units := m.current()
		switch {
		case len(units) == 0:
			part.stop()
			part = nil
		case part == nil:
			part = m.participate(ctx)
		default:
			part.update()
		}
	}
}

func (m *Module) current() (agentID int64, units []unit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agentID, slices.Clone(m.wanted)
}

// participation is the time in which this pod takes part in the election.
type participation struct {
	updates chan struct{} // gets a value when other units are wanted
	cancel  context.CancelFunc
	ended   chan struct{}
}

func (m *Module) participate(ctx context.Context) *participation {
	ctx, cancel := context.WithCancel(ctx)
	p := &participation{updates: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		if err := m.election(ctx, p.updates); err != nil {
			m.cfg.Log.Error("GitOps is off on this pod", zap.Error(err))
		}
	}()
	return p
}

func (p *participation) update() {
	select {
	case p.updates <- struct{}{}:
	default:
	}
}

// stop ends it and waits; a nil participation has ended.
func (p *participation) stop() {
	if p == nil {
		return
	}
	p.cancel()
	<-p.ended
}

func (m *Module) election(ctx context.Context, updates <-chan struct{}) error {
	if m.elector == nil {
		id, _ := m.current()
		elector, err := m.cfg.Elect(id)
		if err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
		m.elector = elector
	}
	return m.elector.Run(ctx, func(ctx context.Context) error {
		m.lead(ctx, updates)
		return nil
	})
}

// setup is what all synchronisations of an engine share.
func (m *Module) setup(agentID int64, access child.Access) *engine.Setup {
	return &engine.Setup{
		AgentId: agentID, Kubeconfig: access.Kubeconfig, PodName: m.cfg.PodName,
	}
}

// timing has the pauses of the module; tests shorten them.
type timing struct {
	// batch bounds how long one batch of files may take.
	batch time.Duration
	// shortest is the least time between two streams that brought nothing.
	shortest time.Duration
	// values bounds the reading of values from a URL.
	values time.Duration
	fetch  backoff.Policy
	engine backoff.Policy
	// held is how long a unit that ended the engine is held back.
	held  backoff.Policy
	child childTiming
}

// childTiming is that of child.Config.
type childTiming struct{ start, silence, stop, look time.Duration }

func (t *timing) fill() {
	if t.batch == 0 {
		t.batch = 5 * time.Minute
	}
	if t.shortest == 0 {
		t.shortest = time.Second
	}
	if t.values == 0 {
		t.values = 30 * time.Second
	}
	if t.fetch.Initial == 0 {
		t.fetch = fetchPolicy
	}
	if t.held.Initial == 0 {
		t.held = heldPolicy
	}
	if t.engine.Initial == 0 {
		t.engine = enginePolicy
	}
}
