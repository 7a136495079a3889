// Package railsapi is the API of kas for GitLab Rails: which agents are connected, which agents a repository configures, that
// somebody pushed, and what this kas is. It is not meant for anybody else; callers prove with a JSON web token that they have the
// secret that Rails and kas share.
package railsapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	agenttracker "gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/api/notifications"
	serverinfo "gitlab.com/agentk/agentk/api/serverinfo/rpc"
	"gitlab.com/agentk/agentk/internal/grpcserver"
	"gitlab.com/agentk/agentk/internal/jwtauth"
)

const (
	defaultListenGrace = 5 * time.Second
	// defaultDrain is above the longest call, see callTimeout.
	defaultDrain = 35 * time.Second
	stopTimeout  = 5 * time.Second
)

// Config configures a Server. All fields are required unless they say otherwise.
type Config struct {
	// Listener yields the connections. The Server closes it.
	Listener net.Listener
	// TLS is put around the listener; nil: the connections are used as they come.
	TLS *tls.Config
	// SecretFile holds the key shared with Rails, as Base64. It is read again when it changes.
	SecretFile string
	Agents     Agents
	Events     Events
	// ConfigFiles reads repositories.
	ConfigFiles ConfigFiles
	// MaxConnectionAge is the configured age, of which connections get fixed parts. 0: no limit.
	MaxConnectionAge time.Duration
	// ListenGracePeriod is how long new connections are still accepted after the stop signal. 0 is 5 s, negative is none.
	ListenGracePeriod time.Duration
	// DrainTimeout bounds waiting for running calls after that. 0 is a little more than any call may last, negative is none.
	DrainTimeout time.Duration
	Log          *zap.Logger
	// Registerer gets the metrics; nil means none. The grpc_server metrics of another server in it are shared.
	Registerer prometheus.Registerer
}

// Server serves Rails.
type Server struct {
	cfg  Config
	grpc *grpc.Server
}

// New builds the server; nothing is served before Run. It reads the secret.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Listener == nil, cfg.SecretFile == "", cfg.Agents == nil, cfg.Events == nil, cfg.ConfigFiles == nil, cfg.Log == nil:
		return nil, errors.New("railsapi: Listener, SecretFile, Agents, Events, ConfigFiles and Log are required")
	}
	cfg.ListenGracePeriod = orDefault(cfg.ListenGracePeriod, defaultListenGrace)
	cfg.DrainTimeout = orDefault(cfg.DrainTimeout, defaultDrain)
	if cfg.TLS != nil {
		t := cfg.TLS.Clone()
		t.NextProtos = []string{"h2"}
		cfg.Listener = tls.NewListener(cfg.Listener, t)
	}
	secret, err := jwtauth.OpenSecret(cfg.SecretFile, cfg.Log)
	if err != nil {
		return nil, err
	}
	// The issuer is Rails' host name, which kas does not know.
	verifier, err := jwtauth.NewVerifier(jwtauth.Config{Keys: secret, Audience: jwtauth.AudienceKas})
	if err != nil {
		return nil, err
	}
	metrics, err := grpcserver.Metrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	watch, err := newWatch(cfg.Log, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	guard := jwtauth.NewGuard(verifier, cfg.Log)
	server := grpc.NewServer(append(grpcserver.Limits(cfg.MaxConnectionAge),
		// Outside in: count, survive panics, authenticate, validate. All calls are unary; the stream half keeps a stream that
		// is added one day from being open to everybody.
		grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), watch.unary, guard.UnaryInterceptor, validate),
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), guard.StreamInterceptor),
	)...)
	agenttracker.RegisterAgentTrackerServer(server, &tracker{agents: cfg.Agents})
	configurationproject.RegisterConfigurationProjectServer(server, &configurationProject{files: cfg.ConfigFiles})
	notifications.RegisterNotificationsServer(server, &notificationsServer{events: cfg.Events})
	serverinfo.RegisterServerInfoServer(server, serverInfo{})
	metrics.InitializeMetrics(server)
	return &Server{cfg: cfg, grpc: server}, nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	switch {
	case d == 0:
		return fallback
	case d < 0:
		return 0
	}
	return d
}

// Run serves until ctx ends, and then stops in order: accept for the grace period, let running calls finish, cut what is left.
func (s *Server) Run(ctx context.Context) error {
	serving := make(chan error, 1)
	go func() { serving <- s.grpc.Serve(s.cfg.Listener) }()
	select {
	case err := <-serving:
		return fmt.Errorf("serve the API for Rails: %w", err)
	case <-ctx.Done():
	}
	grace := time.NewTimer(s.cfg.ListenGracePeriod)
	defer grace.Stop()
	select {
	case err := <-serving:
		return fmt.Errorf("serve the API for Rails: %w", err)
	case <-grace.C:
	}
	if !s.stop() {
		return nil
	}
	if err := <-serving; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve the API for Rails: %w", err)
	}
	return nil
}

// stop says whether all is over. A handler that ignores its cancelled context is left behind with a log line.
func (s *Server) stop() bool {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	if closedWithin(graceful, s.cfg.DrainTimeout) {
		return true
	}
	s.cfg.Log.Warn("Calls of Rails did not finish in time, cutting them", zap.Duration("drain_timeout", s.cfg.DrainTimeout))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.Stop()
	}()
	if closedWithin(stopped, stopTimeout) && closedWithin(graceful, stopTimeout) {
		return true
	}
	s.cfg.Log.Error("Calls of Rails ignore that their connection is gone")
	return false
}

// closedWithin waits for a channel to close, at most for a while.
func closedWithin(done <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
