package swarm

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	configagent "gitlab.com/agentk/agentk/internal/agentconfig/agent"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/kasdial"
	registraragent "gitlab.com/agentk/agentk/internal/registrar/agent"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

// drainTimeout is how long requests in flight may go on after Stop.
const drainTimeout = 5 * time.Second

// agent is one of them.
type agent struct {
	kas       *kasdial.Client
	registrar *registraragent.Registrar
	config    *configagent.Loop
	pool      *tunnel.Pool
}

func newAgent(cfg Config, i int, s *Swarm) (*agent, error) {
	token := cfg.Token(i)
	connected, reconnected := make(chan string, 1), make(chan struct{}, 1)
	var once sync.Once
	kas, err := kasdial.New(kasdial.Config{
		Address: cfg.KasURL, TokenSource: func() string { return token }, CAFile: cfg.CAFile, UserAgent: "agentk-swarm", Log: cfg.Log,
		OnConnection: func(local string) {
			s.connections.Add(1)
			select {
			case <-connected:
			default:
			}
			connected <- local
		},
		OnState: func(e kasdial.Event) {
			first := false
			if e.Change == kasdial.Connected {
				once.Do(func() { first = true })
				if !first {
					poke(reconnected)
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	a := &agent{kas: kas}
	if err := a.build(cfg, connected, reconnected); err != nil {
		_ = a.close()
		return nil, err
	}
	return a, nil
}

// poke puts a value into a channel that has none.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (a *agent) build(cfg Config, connected <-chan string, reconnected <-chan struct{}) error {
	meta := func(context.Context) *entity.AgentMeta { return &entity.AgentMeta{Version: "v0.0.0", PodName: "swarm"} }
	var err error
	a.registrar, err = registraragent.New(registraragent.Config{
		Client: agentregistrar.NewAgentRegistrarClient(a.kas), Meta: meta, Reconnected: reconnected, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	a.config, err = configagent.New(configagent.Config{
		Client: agentconfiguration.NewAgentConfigurationClient(a.kas), Meta: meta, SetLevels: func(_, _ zapcore.Level) {}, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	responder, err := httpgrpc.NewResponder(httpgrpc.ResponderConfig{Performer: answer(cfg.Body)})
	if err != nil {
		return err
	}
	a.pool, err = tunnel.NewPool(tunnel.PoolConfig{
		Client: a.kas,
		Services: map[string]map[string]tunnel.Handler{kubernetesapi.KubernetesApi_ServiceDesc.ServiceName: {
			"MakeRequest": func(ctx context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
				return responder.Serve(ctx, s)
			},
		}},
		Extensions: []string{httpgrpc.ExtEncodedPath}, MaxStreams: cfg.MaxStreams, Limit: a.kas.StreamLimit,
		Pod: a.registrar.PodID(), Leave: a.registrar.Leave, Connected: connected, DrainTimeout: drainTimeout,
		Log: cfg.Log, Registerer: prometheus.NewRegistry(),
	})
	return err
}

// run runs the agent until ctx ends. The tunnel ends before the registration, as in agentk.
func (a *agent) run(ctx context.Context) error {
	registered, unregister := context.WithCancel(context.WithoutCancel(ctx))
	defer unregister()
	var group errgroup.Group
	group.Go(func() error { return a.registrar.Run(registered) })
	group.Go(func() error { return a.config.Run(ctx) })
	group.Go(func() error {
		defer unregister()
		return a.pool.Run(ctx)
	})
	return group.Wait()
}

func (a *agent) close() error { return a.kas.Close() }

// answer performs every request with the same body.
type answer string

// RoundTrip implements httpgrpc.Performer.
func (a answer) RoundTrip(r *http.Request, _ *anypb.Any) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}},
		ContentLength: int64(len(a)), Body: io.NopCloser(strings.NewReader(string(a))), Request: r,
	}, nil
}
