// Package leader chooses one of the agent's pods for what must run once. The pods agree through a Lease of the cluster they run in:
// whoever holds it leads, renews it, and gives it up when it stops. It is a package of its own, and not client-go's, because that
// one brings every kind of the Kubernetes API into the program.
//
// A leader that cannot renew in time stops leading before anybody else may start, as long as what it leads ends within Duration less
// RenewDeadline. Whether another pod's Lease has run out is measured with this pod's own clock from when a change of it was last
// seen, so clocks that disagree do no harm.
package leader

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Config configures an Elector.
type Config struct {
	// Client reaches the cluster's API server.
	Client rest.Interface
	// Namespace and Name are those of the Lease.
	Namespace, Name string
	// Identity names this pod among those that want to lead. It must be unique.
	Identity string
	// Owner is whom a new Lease belongs to, so that it goes with its installation; nil, or a nil answer: nobody. It is asked when
	// the Lease is made.
	Owner func(context.Context) *metav1.OwnerReference
	// Duration is how long a Lease that is not renewed counts. 0: 15 s.
	Duration time.Duration
	// RenewDeadline is how long a leader that cannot renew goes on leading. It must be less than Duration. 0: 10 s.
	RenewDeadline time.Duration
	// Retry is the pause between two attempts, to which a fifth at most is added by chance. 0: 2 s.
	Retry time.Duration
	Log   *zap.Logger
	// Registerer takes agentk_leader, 1 while this pod leads.
	Registerer prometheus.Registerer
}

// Elector takes part in one election.
type Elector struct {
	cfg    Config
	leases leases
	leads  prometheus.Gauge

	// seen is the Lease as it was last read or written here, and at when it was last seen to change.
	seen *coordinationv1.Lease
	at   time.Time
	// holder is whom the log named last.
	holder string
}

// New returns an Elector. Errors say what of the configuration is missing or does not fit together.
func New(cfg Config) (*Elector, error) {
	if cfg.Namespace == "" || cfg.Name == "" || cfg.Identity == "" {
		return nil, errors.New("leader election needs the namespace and name of its Lease, and the name of this pod")
	}
	if cfg.Duration == 0 {
		cfg.Duration = 15 * time.Second
	}
	if cfg.RenewDeadline == 0 {
		cfg.RenewDeadline = 10 * time.Second
	}
	if cfg.Retry == 0 {
		cfg.Retry = 2 * time.Second
	}
	if cfg.RenewDeadline >= cfg.Duration || cfg.Retry >= cfg.RenewDeadline {
		return nil, fmt.Errorf("leader election: the pause %s must be shorter than the renewal's deadline %s, and that than the Lease's duration %s",
			cfg.Retry, cfg.RenewDeadline, cfg.Duration)
	}
	e := &Elector{
		cfg: cfg, leases: leases{client: cfg.Client, namespace: cfg.Namespace, name: cfg.Name},
		leads: prometheus.NewGauge(prometheus.GaugeOpts{Name: "agentk_leader", Help: "1 while this pod is the one that runs what must run once"}),
	}
	if err := cfg.Registerer.Register(e.leads); err != nil {
		return nil, err
	}
	return e, nil
}

// Run takes part in the election until ctx ends. Whenever this pod is elected, lead runs; its context ends when the Lease is lost or
// ctx ends, and lead must return soon then. The Lease is given up once lead has returned. If lead returns by itself while it still
// leads, Run ends with its error; nil then means that it wants no more.
func (e *Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	for ctx.Err() == nil {
		if !e.acquire(ctx) {
			return nil
		}
		e.cfg.Log.Info("This pod leads", zap.String("lease", e.cfg.Name))
		e.leads.Set(1)
		lost, err := e.term(ctx, lead)
		e.leads.Set(0)
		if !lost {
			e.release()
		}
		if ctx.Err() == nil && !lost || err != nil {
			return err
		}
	}
	return nil
}

// acquire tries until this pod holds the Lease; false: ctx has ended.
func (e *Elector) acquire(ctx context.Context) bool {
	for {
		held, err := e.attempt(ctx, e.cfg.RenewDeadline)
		if held {
			return true
		}
		if err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("Leader election failed, will be tried again", zap.String("lease", e.cfg.Name), zap.Error(err))
		}
		if !pause(ctx, e.cfg.Retry) {
			return false
		}
	}
}

// term leads as long as the Lease can be renewed. lost: somebody else may lead now.
func (e *Elector) term(ctx context.Context, lead func(context.Context) error) (lost bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- lead(ctx) }()
	renewed := time.Now()
	for {
		select {
		case err := <-ended:
			return false, err
		case <-ctx.Done():
			return false, <-ended
		case <-time.After(jitter(e.cfg.Retry)):
		}
		begin := time.Now()
		held, err := e.attempt(ctx, max(e.cfg.RenewDeadline-time.Since(renewed), time.Millisecond))
		switch {
		case held:
			renewed = begin
			continue
		case ctx.Err() != nil:
			continue
		case err == nil:
			e.cfg.Log.Warn("Another pod took the Lease, this one stops leading", zap.String("lease", e.cfg.Name))
		case time.Since(renewed) < e.cfg.RenewDeadline-e.cfg.Retry:
			e.cfg.Log.Warn("The Lease could not be renewed, will be tried again", zap.String("lease", e.cfg.Name), zap.Error(err))
			continue
		default:
			e.cfg.Log.Error("The Lease could not be renewed in time, this pod stops leading", zap.String("lease", e.cfg.Name), zap.Error(err))
		}
		cancel()
		return true, <-ended
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(jitter(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// jitter spreads pods that started together.
func jitter(d time.Duration) time.Duration { return d + time.Duration(rand.Int64N(int64(d)/5+1)) }
