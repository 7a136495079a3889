// Package agentk is the object graph of the agent: what exists, in which order it starts, and in which order it stops.
package agentk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	configagent "gitlab.com/agentk/agentk/internal/agentconfig/agent"
	"gitlab.com/agentk/agentk/internal/agentconfig/agent/kubeevent"
	"gitlab.com/agentk/agentk/internal/gcfloor"
	gitopsagent "gitlab.com/agentk/agentk/internal/gitops/agent"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/k8sapi"
	"gitlab.com/agentk/agentk/internal/kasdial"
	"gitlab.com/agentk/agentk/internal/kuberest"
	"gitlab.com/agentk/agentk/internal/listen"
	registraragent "gitlab.com/agentk/agentk/internal/registrar/agent"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/tunnel"
	"gitlab.com/agentk/agentk/internal/version"
)

// agent holds the parts while they are put together.
type agent struct {
	cfg      Config
	log      *telemetry.Log
	registry *prometheus.Registry
	ready    telemetry.Probes

	kubernetes *k8sapi.Client
	api        rest.Interface
	link       *link
	kas        *kasdial.Client
	pod        *registraragent.Pod
	registrar  *registraragent.Registrar
	// connected holds the local address of the newest connection to kas until the tunnel takes it.
	connected chan string
	pool      *tunnel.Pool
	events    configagent.Events // nil: this is no pod
	gitops    *gitopsagent.Module
	config    *configagent.Loop
	observe   *telemetry.Server
	listener  net.Listener
}

// Run runs the agent until ctx ends, and stops it in order. Errors name what could not be started or what failed.
func Run(ctx context.Context, cfg Config, log *telemetry.Log) error {
	a := &agent{cfg: cfg, log: log, registry: telemetry.NewRegistry(telemetry.Agentk), connected: make(chan string, 1)}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"Kubernetes client", a.newKubernetes},
		{"connection to kas", a.newKas},
		{"registration", a.newRegistrar},
		{"reverse tunnel", a.newTunnel},
		{"events", a.newEvents},
		{"GitOps", a.newGitOps},
		{"agent configuration", a.newConfiguration},
		{"observability", a.newObservability},
	} {
		if err := step.do(ctx); err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", step.what, err), a.close())
		}
	}
	log.Info("Observability endpoint is up", zap.String(telemetry.NetNetwork, a.listener.Addr().Network()),
		zap.String(telemetry.NetAddress, a.listener.Addr().String()))
	err := runStages(ctx,
		stage{{"observability", func(ctx context.Context) error { return a.observe.Run(ctx, a.listener) }}, {"memory", gcfloor.Run}},
		stage{{"Kubernetes client", a.kubernetes.Run}},
		stage{{"connection to kas", a.link.run}, {"registration", a.registrar.Run}},
		stage{{"reverse tunnel", a.pool.Run}},
		stage{{"GitOps", a.gitops.Run}},
		stage{{"agent configuration", a.config.Run}},
	)
	return errors.Join(err, a.close())
}

func (a *agent) newKubernetes(context.Context) error {
	var err error
	a.kubernetes, err = k8sapi.New(k8sapi.Config{
		REST:                        a.cfg.REST,
		ImpersonationServiceAccount: a.cfg.ImpersonationServiceAccount,
		ImpersonationTokenFile:      a.cfg.ImpersonationTokenFile,
		Log:                         a.log.With(zap.String(telemetry.ModName, "kubernetes_api")),
	})
	if err != nil {
		return err
	}
	// The library sets the User-Agent in the transport that it makes itself, and not where it is given one.
	own := transport.NewUserAgentRoundTripper(version.Agentk(), a.kubernetes.Own())
	a.api, err = kuberest.New(a.cfg.REST, &http.Client{Transport: own})
	return err
}

func (a *agent) newKas(context.Context) error {
	log := a.log.With(zap.String(telemetry.ModName, "connection"))
	a.link = newLink(a.cfg.Kas.Address, log, a.registry)
	a.ready.Add("kas", a.link.ready)
	var err error
	a.kas, err = kasdial.New(kasdial.Config{
		Address:            a.cfg.Kas.Address,
		TokenSource:        a.cfg.Kas.Token,
		CAFile:             a.cfg.Kas.CAFile,
		Header:             a.cfg.Kas.Header,
		InsecureSkipVerify: a.cfg.Kas.InsecureSkipVerify,
		ServerName:         a.cfg.Kas.ServerName,
		UserAgent:          version.Agentk(),
		OnState:            a.link.changed,
		OnConnection: func(local string) {
			select {
			case <-a.connected:
			default:
			}
			a.connected <- local
		},
		Log:        log,
		Registerer: a.registry,
	})
	return err
}

func (a *agent) newRegistrar(context.Context) error {
	log := a.log.With(zap.String(telemetry.ModName, "agent_registrar"))
	a.pod = registraragent.NewPod(&entity.AgentMeta{
		Version:            version.Version,
		CommitId:           version.Commit,
		GitRef:             version.Version,
		PodNamespace:       a.cfg.Pod.Namespace,
		PodName:            a.cfg.Pod.Name,
		ExtraTelemetryData: a.cfg.Pod.Telemetry,
	}, registraragent.KubernetesVersion(a.api), log)
	var err error
	a.registrar, err = registraragent.New(registraragent.Config{
		Client:      agentregistrar.NewAgentRegistrarClient(a.kas),
		Meta:        a.pod.Meta,
		Reconnected: a.link.reconnected,
		Log:         log,
	})
	return err
}

func (a *agent) newTunnel(context.Context) error {
	responder, err := httpgrpc.NewResponder(httpgrpc.ResponderConfig{Performer: a.kubernetes})
	if err != nil {
		return err
	}
	a.pool, err = tunnel.NewPool(tunnel.PoolConfig{
		Client: a.kas,
		Services: map[string]map[string]tunnel.Handler{
			kubernetesapi.KubernetesApi_ServiceDesc.ServiceName: {
				"MakeRequest": func(ctx context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
					return responder.Serve(ctx, s)
				},
			},
		},
		Extensions:   []string{httpgrpc.ExtEncodedPath},
		MaxStreams:   a.cfg.MaxStreams,
		Limit:        a.kas.StreamLimit,
		RoundTrip:    a.kas.RoundTrip,
		Pod:          a.registrar.PodID(),
		Leave:        a.registrar.Leave,
		Connected:    a.connected,
		DrainTimeout: a.cfg.GracePeriod,
		Log:          a.log.With(zap.String(telemetry.ModName, "reverse_tunnel")),
		Registerer:   a.registry,
	})
	return err
}

func (a *agent) newEvents(context.Context) error {
	if !a.cfg.Pod.Known {
		return nil
	}
	emitter, err := kubeevent.New(kubeevent.Config{
		Client: a.api, Namespace: a.cfg.Pod.Namespace, Pod: a.cfg.Pod.Name, Log: a.log.With(zap.String(telemetry.ModName, "events")),
	})
	if err != nil {
		return err
	}
	a.events = emitter
	return nil
}

func (a *agent) newConfiguration(context.Context) error {
	log := a.log.With(zap.String(telemetry.ModName, "agent_configuration"))
	var err error
	a.config, err = configagent.New(configagent.Config{
		Client:  agentconfiguration.NewAgentConfigurationClient(a.kas),
		Meta:    a.pod.Meta,
		Modules: []configagent.Module{a.gitops},
		SetLevels: func(level, grpcLevel zapcore.Level) {
			a.log.Level.SetLevel(level)
			a.log.GRPCLevel.SetLevel(grpcLevel)
		},
		Events:     a.events,
		Log:        log,
		Registerer: a.registry,
	})
	return err
}

func (a *agent) newObservability(ctx context.Context) error {
	log := a.log.With(zap.String(telemetry.ModName, "observability"))
	var err error
	a.observe, err = telemetry.NewServer(telemetry.ServerConfig{
		Product: version.Agentk(), Registry: a.registry, Readiness: &a.ready, Log: log,
	})
	if err != nil {
		return err
	}
	a.cfg.Observability.Log = log
	a.listener, err = listen.Open(ctx, a.cfg.Observability)
	return err
}

// close ends the connection to kas, if there is one.
func (a *agent) close() error {
	if a.kas == nil {
		return nil
	}
	return a.kas.Close()
}
