package swarm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// Config says what agents there are.
type Config struct {
	// Agents is how many.
	Agents int
	// KasURL is where kas listens for agents: ws, wss, grpc or grpcs.
	KasURL string
	// CAFile holds certificates that are trusted besides those of the system. Empty: none.
	CAFile string
	// Token is the token of agent i, counted from 0. Agents with the same token are pods of one agent.
	Token func(i int) string
	// Body is the body of every answer; its status is 200. Default "ok".
	Body string
	// MaxStreams bounds the streams of each agent. 0: as many as agentk allows.
	MaxStreams int
	// Log gets what the agents log. nil: nobody.
	Log *zap.Logger
}

// Swarm is the running agents.
type Swarm struct {
	agents []*agent
	stop   context.CancelFunc
	all    sync.WaitGroup

	connections atomic.Int64
	failures    failures
}

// Start starts all agents at once. They live until Stop; ctx bounds nothing but the start.
func Start(ctx context.Context, cfg Config) (*Swarm, error) {
	if cfg.Agents < 1 || cfg.KasURL == "" || cfg.Token == nil {
		return nil, errors.New("swarm: agents, the URL of kas and tokens are required")
	}
	if cfg.Body == "" {
		cfg.Body = "ok"
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Swarm{stop: stop}
	for i := range cfg.Agents {
		if err := ctx.Err(); err != nil {
			s.Stop()
			return nil, err
		}
		a, err := newAgent(cfg, i, s)
		if err != nil {
			s.Stop()
			return nil, fmt.Errorf("agent %d of the swarm: %w", i, err)
		}
		s.agents = append(s.agents, a)
		s.all.Go(func() {
			if err := a.run(running); err != nil {
				s.failures.add(fmt.Errorf("agent %d of the swarm: %w", i, err))
			}
		})
	}
	return s, nil
}

// Connections is how many connections to kas the agents have made so far, all together.
func (s *Swarm) Connections() int64 { return s.connections.Load() }

// Stop ends all agents as SIGTERM does, waits for them, and returns what went wrong with them since the start.
func (s *Swarm) Stop() error {
	s.stop()
	s.all.Wait()
	for _, a := range s.agents {
		s.failures.add(a.close())
	}
	s.agents = nil
	return s.failures.joined()
}

// failures gathers errors of many goroutines.
type failures struct {
	mu  sync.Mutex
	all []error // guarded by mu
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

func (f *failures) joined() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.all...)
}
