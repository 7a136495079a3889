// Package kas is the object graph of the server: what exists, in which order it starts, and in which order it stops.
package kas

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	gitlabaccessapi "gitlab.com/agentk/agentk/api/gitlabaccess"
	gitopsapi "gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/agentauth"
	configserver "gitlab.com/agentk/agentk/internal/agentconfig/server"
	"gitlab.com/agentk/agentk/internal/agentserver"
	"gitlab.com/agentk/agentk/internal/gcfloor"
	"gitlab.com/agentk/agentk/internal/gitlabaccess"
	gitopsserver "gitlab.com/agentk/agentk/internal/gitops/server"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/listen"
	"gitlab.com/agentk/agentk/internal/railsapi"
	registrarserver "gitlab.com/agentk/agentk/internal/registrar/server"
	"gitlab.com/agentk/agentk/internal/route"
	"gitlab.com/agentk/agentk/internal/rules"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/tunnel"
	"gitlab.com/agentk/agentk/internal/usage"
	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

// server holds the parts while they are put together.
type server struct {
	cfg      *config.Config
	file     *kascfg.ConfigurationFile
	log      *zap.Logger
	registry *prometheus.Registry
	ready    telemetry.Probes
	servers  map[string]*telemetry.Toggle // of ready, by name
	getenv   func(string) string

	store   store.Store
	others  others // what makes this kas one of several
	world   world
	usage   *usage.Tracker // nil without a GitLab
	auth    *agentauth.Authenticator
	tunnels *tunnel.Registry

	connections connections

	configs *configserver.Server
	gitops  *gitopsserver.Server
	agents  *agentserver.Server
	router  *route.Router   // nil: no section kubernetes_api
	proxy   *k8sproxy.Proxy // nil likewise
	observe *telemetry.Server
	// rails is the API for Rails; its server is nil without a GitLab.
	rails struct {
		server *railsapi.Server
		files  railsapi.ConfigFiles
		addr   net.Addr
	}

	agentAddr                      net.Addr
	proxyListener, observeListener net.Listener
	// opened are the listeners to close when the start fails half-way.
	opened []net.Listener
}

// Run runs kas until ctx ends, and stops it in order. Errors name what could not be started or what failed.
func Run(ctx context.Context, cfg *config.Config, log *telemetry.Log) error {
	s := &server{cfg: cfg, file: cfg.File, log: log.Logger, registry: telemetry.NewRegistry(telemetry.Kas), getenv: os.Getenv}
	defer func() {
		if s.world.close != nil {
			s.world.close()
		}
		s.others.close()
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"environment", s.checkEnvironment},
		{"store", s.newStore},
		{"private API", s.newOthers},
		{"backend", s.newWorld},
		{"agent authentication", s.newAuth},
		{"agent services", s.newAgentServices},
		{"GitOps", s.newGitops},
		{"Kubernetes API proxy", s.newProxy},
		{"agent listener", s.newAgentServer},
		{"private API", s.newPrivateAPI},
		{"API for Rails", s.newRailsAPI},
		{"readiness", s.newReadiness},
		{"observability", s.newObservability},
	} {
		if err := step.do(ctx); err != nil {
			for _, l := range s.opened {
				_ = l.Close()
			}
			return fmt.Errorf("start %s: %w", step.what, err)
		}
	}
	s.announce()
	return s.run(ctx)
}

// run starts all parts and stops them again. What serves requests stops first and on its own time; what it needs goes on until
// then.
func (s *server) run(ctx context.Context) error {
	serving, stopServing := context.WithCancelCause(ctx)
	defer stopServing(nil)
	base, stopBase := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopBase(nil)

	var below errgroup.Group
	for _, part := range []func(context.Context) error{
		s.runStore, s.world.run, s.auth.Run, s.configs.Run, s.gitops.Run, s.tunnels.Run, s.runRouter, s.runObservability,
		gcfloor.Run,
	} {
		below.Go(func() error {
			err := part(base)
			if err != nil {
				stopServing(err)
			}
			return err
		})
	}
	// Other replicas' requests go on as long as agents are here.
	reached, stopReached := context.WithCancelCause(base)
	defer stopReached(nil)
	var between errgroup.Group
	between.Go(func() error {
		err := s.runPrivateAPI(reached)
		if err != nil {
			stopServing(err)
		}
		return err
	})
	var above errgroup.Group
	for _, part := range []func(context.Context) error{s.runAnnouncer, s.runAgents, s.runRailsAPI, s.runProxy} {
		above.Go(func() error {
			err := part(serving)
			if err != nil {
				stopServing(err)
			}
			return err
		})
	}
	err := above.Wait()
	stopReached(nil)
	err = errors.Join(err, between.Wait())
	stopBase(nil)
	err = errors.Join(err, below.Wait())
	s.log.Info("kas stopped")
	return err
}

func (s *server) newAuth(context.Context) error {
	listen := s.file.Agent.Listen
	var err error
	// Without others nobody would read them, and a world that tells changes takes refusals back.
	var refusals agentauth.Refusals
	if s.others.shared != nil && s.world.agents.Changed() == nil {
		refusals = s.store
	}
	s.auth, err = agentauth.New(agentauth.Config{
		Backend: s.world.agents, Instant: s.cfg.Standalone(), CacheTTL: s.world.cacheTTL, ErrorTTL: s.world.errorTTL, RefreshPeriod: s.world.refreshPeriod,
		Gone: s.agentGone, Limiter: s.store, Refusals: refusals, ConnectionsPerMinute: listen.ConnectionsPerTokenPerMinute,
		MaxConnectionAge: listen.MaxConnectionAge.AsDuration(),
		Validate:         rules.Validate, Log: s.named("agent_server"), Registerer: s.registry,
	})
	return err
}

// agentGone forgets an agent that was deleted, or that has no token any more.
func (s *server) agentGone(ctx context.Context, agentID int64) {
	if err := s.connections.forget(ctx, agentID); err != nil {
		s.named("agent_registrar").Warn("Agent was not unregistered", zap.Int64(telemetry.AgentID, agentID), zap.Error(err))
	}
}

func (s *server) newAgentServices(context.Context) error {
	s.tunnels = tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: s.registry, Changed: s.others.changed()})
	s.connections = connections{Agents: s.store, usage: s.usage, alarm: railsapi.NewInstallationAlarm(s.store, s.named("agent_registrar"))}
	var err error
	s.configs, err = configserver.New(configserver.Config{
		Auth: s.auth, AgeLimit: agentauth.AgeLimit, Repository: s.world.repository, Pushes: s.store, Changes: s.world.changes,
		Registry: s.connections, OnConfiguration: s.world.configured,
		ExternalURL: s.file.GetGitlab().GetExternalUrl(),
		PollPeriod:  s.file.Agent.Configuration.PollPeriod.AsDuration(),
		MaxFileSize: int64(s.file.Agent.Configuration.MaxConfigurationFileSize),
		Log:         s.named("agent_configuration"), Registerer: s.registry,
	})
	return err
}

func (s *server) newAgentServer(ctx context.Context) error {
	cf := s.file.Agent.Listen
	registrar, err := registrarserver.New(registrarserver.Config{
		Auth: s.auth, Registry: s.connections, Leave: s.tunnels.Leave, TTL: s.file.Agent.RedisConnInfoTtl.AsDuration(),
		Log: s.named("agent_registrar"), Registerer: s.registry,
	})
	if err != nil {
		return err
	}
	modules, err := gitlabaccess.New(gitlabaccess.Config{
		Modules: s.world.modules, Token: agentauth.TokenFromContext, Log: s.named("gitlab_access"),
	})
	if err != nil {
		return err
	}
	ln, err := s.listen(ctx, listen.Config{Network: cf.GetNetwork(), Address: cf.Address})
	if err != nil {
		return err
	}
	s.agentAddr = ln.Addr()
	mux := wsconn.MuxConfig{
		Listener: ln, WebSocket: cf.Websocket, Server: version.Kas(),
		KubernetesAPI: s.file.Standalone.GetKubernetesApiUrl(), Log: s.named("agent_listener"),
	}
	if cf.CertificateFile != "" {
		if mux.TLS, err = listen.ServerTLS(cf.CertificateFile, cf.KeyFile, nil, s.log); err != nil {
			return err
		}
	}
	m, err := wsconn.NewMux(mux)
	if err != nil {
		return err
	}
	proxy := s.file.Agent.KubernetesApi.GetListen()
	s.agents, err = agentserver.New(agentserver.Config{
		Mux: m, Auth: s.auth,
		Register: func(r grpc.ServiceRegistrar) {
			agentconfiguration.RegisterAgentConfigurationServer(r, &configurationService{auth: s.auth, server: s.configs})
			agentregistrar.RegisterAgentRegistrarServer(r, registrar)
			gitopsapi.RegisterGitopsServer(r, &gitopsService{auth: s.auth, server: s.gitops})
			gitlabaccessapi.RegisterGitlabAccessServer(r, modules)
			reversetunnel.RegisterReverseTunnelServer(r, &tunnelService{auth: s.auth, registry: s.tunnels})
		},
		MaxConnectionAge:  cf.MaxConnectionAge.AsDuration(),
		ListenGracePeriod: cf.ListenGracePeriod.AsDuration(),
		Needed:            s.requestsEnd(),
		// Proxied requests that may still run need the agents' streams, and a moment to tell their end.
		DrainTimeout: max(proxy.GetShutdownGracePeriod().AsDuration()+lastWords, agentDrain),
		Log:          s.named("agent_server"), Registerer: s.registry,
	})
	return err
}

const (
	// agentDrain is how long the agents' other calls may take to end at shutdown.
	agentDrain = 10 * time.Second
	// lastWords is how much longer agents have to stay than requests that were cut need to tell their clients.
	lastWords = 2 * time.Second
)

func (s *server) newProxy(ctx context.Context) error {
	cf := s.file.Agent.KubernetesApi
	if cf == nil {
		s.log.Info("The configuration has no section agent.kubernetes_api: no Kubernetes API proxy here")
		return nil
	}
	if file := cf.WebsocketTokenSecretFile; file != "" {
		if err := checkWebSocketKey(file); err != nil {
			return err
		}
	}
	var origins []string
	if url := s.file.GetGitlab().GetExternalUrl(); url != "" {
		origin, err := originOf(url)
		if err != nil {
			return err
		}
		origins = []string{origin}
	}
	s.router = route.New(route.Config{
		Registry: s.tunnels, LastSeen: s.store.LastSeen, Started: time.Now(), Registerer: s.registry, Others: s.others.route(s.store),
	})
	proxy := k8sproxy.Config{
		Log: s.named("kubernetes_api"), Registerer: s.registry, Jobs: s.world.jobs, Users: s.world.users,
		Opener:        s.router,
		URLPathPrefix: cf.UrlPathPrefix, AllowedOrigins: origins, ExtraAllowedResponseHeaders: cf.ExtraAllowedResponseHeaders,
		AllowedAgentCacheTTL:      cf.AllowedAgentCacheTtl.AsDuration(),
		AllowedAgentCacheErrorTTL: cf.AllowedAgentCacheErrorTtl.AsDuration(),
		ListenGracePeriod:         cf.Listen.ListenGracePeriod.AsDuration(),
		ShutdownGracePeriod:       cf.Listen.ShutdownGracePeriod.AsDuration(),
		Usage:                     proxyUsage{s.usage},
	}
	if s.world.changes != nil {
		proxy.Changed = s.world.changes.Changed
	}
	var err error
	if s.proxy, err = k8sproxy.New(proxy); err != nil {
		return err
	}
	l := cf.Listen
	s.proxyListener, err = s.listen(ctx, listen.Config{
		Network: l.GetNetwork(), Address: l.Address, CertificateFile: l.CertificateFile, KeyFile: l.KeyFile,
		ALPN: k8sproxy.ALPN(), Log: s.log, Wrap: httpgrpc.Prompt,
	})
	return err
}

// requestsEnd is closed when kas stops and no request for an agent can arrive any more. nil: none ever does.
func (s *server) requestsEnd() <-chan struct{} {
	if s.proxy == nil {
		return nil
	}
	return s.proxy.Closed()
}

func (s *server) newObservability(ctx context.Context) error {
	cf := s.file.Observability
	var err error
	s.observe, err = telemetry.NewServer(telemetry.ServerConfig{
		Product: version.Kas(), Registry: s.registry, Readiness: &s.ready,
		MetricsPath: cf.Prometheus.GetUrlPath(), LivenessPath: cf.LivenessProbe.GetUrlPath(), ReadinessPath: cf.ReadinessProbe.GetUrlPath(),
		Log: s.named("observability"),
	})
	if err != nil {
		return err
	}
	l := cf.Listen
	s.observeListener, err = s.listen(ctx, listen.Config{
		Network: l.GetNetwork(), Address: l.Address, CertificateFile: l.GetCertificateFile(), KeyFile: l.GetKeyFile(),
		ALPN: []string{"http/1.1"}, Log: s.log,
	})
	return err
}

func (s *server) listen(ctx context.Context, cfg listen.Config) (net.Listener, error) {
	l, err := listen.Open(ctx, cfg)
	if err == nil {
		s.opened = append(s.opened, l)
	}
	return l, err
}

func (s *server) named(module string) *zap.Logger {
	return s.log.With(zap.String(telemetry.ModName, module))
}

// announce says what is served where, and what of the configuration has no effect.
func (s *server) announce() {
	s.log.Info("kas starts", zap.String("version", version.Version), zap.String("commit", version.Commit), zap.Bool("standalone", s.cfg.Standalone()))
	for _, w := range s.cfg.Warnings {
		s.log.Warn("Configuration: " + w)
	}
	for _, u := range s.cfg.Unsupported {
		s.log.Warn("Configuration: " + u)
	}
	s.up("Agentk API endpoint is up", s.agentAddr, zap.Bool(telemetry.IsWebSocket, s.file.Agent.Listen.Websocket))
	if s.rails.server != nil {
		s.up("API endpoint is up", s.rails.addr)
	}
	if s.others.server != nil {
		s.up("Private API endpoint is up", s.others.addr, zap.String("own_url", s.others.url))
	}
	if s.proxy != nil {
		s.up("Kubernetes API endpoint is up", s.proxyListener.Addr(), zap.String(telemetry.URLPrefix, s.file.Agent.KubernetesApi.UrlPathPrefix))
	}
	s.up("Observability endpoint is up", s.observeListener.Addr())
}

func (s *server) up(what string, addr net.Addr, more ...zap.Field) {
	s.log.Info(what, append([]zap.Field{zap.String(telemetry.NetNetwork, addr.Network()), zap.String(telemetry.NetAddress, addr.String())}, more...)...)
}

func (s *server) runAgents(ctx context.Context) error {
	defer s.serving(ctx, agentServer)()
	defer s.tunnels.Stop() // no stream will come any more: whoever waits for one is told so
	return s.agents.Run(ctx)
}

func (s *server) runProxy(ctx context.Context) error {
	if s.proxy == nil {
		return nil
	}
	defer s.serving(ctx, kubernetesAPI)()
	return s.proxy.Serve(ctx, s.proxyListener)
}

func (s *server) runObservability(ctx context.Context) error {
	return s.observe.Run(ctx, s.observeListener)
}
