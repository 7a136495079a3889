package kas

import (
	"context"
	"errors"
	"net"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/jwtauth"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/listen"
	"gitlab.com/agentk/agentk/internal/peer"
	"gitlab.com/agentk/agentk/internal/route"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
)

// others is what makes this kas one of several: the private API where others reach its agents, and its own way to theirs. All of
// it is nil without redis.
type others struct {
	shared    *store.Fallback
	secret    *jwtauth.Secret
	listener  net.Listener
	addr      net.Addr
	url       string
	pool      *peer.Pool
	server    *peer.Server
	announcer *route.Announcer
}

// changed hears of agents that come and go.
func (o *others) changed() func(agentID int64) {
	if o.announcer == nil {
		return nil
	}
	return o.announcer.Changed
}

// route is how requests find the other replicas.
func (o *others) route(s store.Store) *route.Others {
	if o.pool == nil {
		return nil
	}
	return &route.Others{OwnURL: o.url, Watch: s.Watch, Peers: o.pool, Trouble: o.trouble}
}

func (o *others) trouble() error {
	if text := o.shared.State().Trouble; text != "" {
		return errors.New(text)
	}
	return nil
}

func (o *others) close() {
	if o.pool != nil {
		o.pool.Close()
	}
}

// newStore takes the process's own memory, or with redis what all replicas share.
func (s *server) newStore(context.Context) error {
	if s.file.Redis == nil {
		s.store = store.NewMemory(store.MemoryConfig{Registerer: s.registry})
		return nil
	}
	shared, err := redisstore.New(redisstore.Config{File: s.file.Redis, Log: s.named("redis"), Registerer: s.registry})
	if err != nil {
		return err
	}
	s.others.shared = store.NewFallback(store.FallbackConfig{
		Shared: shared, Local: store.NewMemory(store.MemoryConfig{Registerer: s.registry}), Log: s.named("redis"), Registerer: s.registry,
	})
	s.store = s.others.shared
	// A kas that has never reached Redis would tell clients that agents of other kas are not there. Later trouble is only told:
	// this kas goes on serving what it has.
	s.ready.Add("redis", s.others.shared.Ready)
	s.ready.Note(func() string {
		if err := s.others.trouble(); err != nil {
			return "degraded: " + err.Error()
		}
		return ""
	})
	return nil
}

// newOthers opens the private API and finds out where the other replicas reach it.
func (s *server) newOthers(ctx context.Context) error {
	if s.others.shared == nil {
		return nil
	}
	cf := s.file.PrivateApi.Listen
	o := &s.others
	var err error
	if o.secret, err = jwtauth.OpenSecret(cf.AuthenticationSecretFile, s.named("private_api")); err != nil {
		return err
	}
	if o.listener, err = s.listen(ctx, listen.Config{Network: cf.GetNetwork(), Address: cf.Address}); err != nil {
		return err
	}
	o.addr = o.listener.Addr()
	var guessed bool
	if o.url, guessed, err = s.cfg.OwnURL(s.getenv, o.addr, config.ThisMachine()); err != nil {
		return err
	}
	if guessed {
		s.log.Warn("The address of the private API was guessed; if other kas cannot reach this one, set OWN_PRIVATE_API_URL or OWN_PRIVATE_API_CIDR",
			zap.String("own_url", o.url))
	}
	o.pool, err = peer.NewPool(peer.PoolConfig{Keys: o.secret, CAFile: cf.CaCertificateFile, ServerName: s.getenv(config.EnvOwnHost)})
	if err != nil {
		return err
	}
	agent := s.file.Agent
	o.announcer, err = route.NewAnnouncer(route.AnnouncerConfig{
		Locations: s.store, URL: o.url, TTL: agent.RedisConnInfoTtl.AsDuration(), Refresh: agent.RedisConnInfoRefresh.AsDuration(),
		StopAfter: agent.Listen.ListenGracePeriod.AsDuration(), Log: s.named("tunnels"), Registerer: s.registry,
	})
	return err
}

// newPrivateAPI serves what newOthers has opened.
func (s *server) newPrivateAPI(context.Context) error {
	o := &s.others
	if o.shared == nil {
		return nil
	}
	cf := s.file.PrivateApi.Listen
	service := kubernetesapi.KubernetesApi_ServiceDesc
	methods := map[string][]string{}
	for _, method := range service.Streams {
		methods[service.ServiceName] = append(methods[service.ServiceName], method.StreamName)
	}
	api := peer.ServerConfig{
		Listener: o.listener, Keys: o.secret, Registry: s.tunnels, Methods: methods,
		MaxConnectionAge: cf.MaxConnectionAge.AsDuration(), Log: s.named("private_api"), Registerer: s.registry,
	}
	var err error
	if cf.CertificateFile != "" {
		if api.TLS, err = listen.ServerTLS(cf.CertificateFile, cf.KeyFile, nil, s.log); err != nil {
			return err
		}
	}
	o.server, err = peer.NewServer(api)
	return err
}

func (s *server) runStore(ctx context.Context) error {
	if s.others.shared == nil {
		return nil
	}
	return s.others.shared.Run(ctx)
}

func (s *server) runRouter(ctx context.Context) error {
	if s.router == nil {
		return nil
	}
	return s.router.Run(ctx)
}

// runAnnouncer tells the other replicas which agents are here, as long as they stay.
func (s *server) runAnnouncer(ctx context.Context) error {
	if s.others.announcer == nil {
		return nil
	}
	return s.others.announcer.Run(ctx, s.tunnels)
}

func (s *server) runPrivateAPI(ctx context.Context) error {
	if s.others.server == nil {
		return nil
	}
	defer s.serving(ctx, privateAPIServer)()
	return s.others.server.Run(ctx)
}
