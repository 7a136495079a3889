// Package agentserver is the gRPC server of kas' agent listener: its limits, how long connections live, and the order in which
// it stops. Who may call it is decided in package agentauth, how bytes reach it in package wsconn.
package agentserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	// Agents ping after 55 s; a stricter floor would cut off agents behind eager middleboxes.
	minPingInterval = 20 * time.Second
	// pingAfter keeps connections alive through middleboxes that drop what is idle for a minute.
	pingAfter   = 50 * time.Second
	pingTimeout = 20 * time.Second
	// ageShare and graceShare are the parts of the maximum connection age after which a connection gets its GOAWAY, and after
	// that its end.
	ageShare   = 0.20
	graceShare = 0.65
	// maxMessage bounds a received message; the largest frames of the protocol stay well below.
	maxMessage = 4 << 20
	// bufferSize of reads and writes: one write becomes one WebSocket message.
	bufferSize = 32 << 10
	// streamWindow and connWindow are what a peer may send unread. They are fixed, because what is measured otherwise grows to
	// 16 MiB per stream and costs pings on busy connections: 1 MiB per stream is 20 MB/s at a round trip of 50 ms, and an agent
	// with 500 streams can make kas hold 500 MiB at the very most.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// maxHeaderList bounds the metadata of one RPC; the library's own default is 16 MiB.
	maxHeaderList = 64 << 10
	// connectionTimeout bounds the HTTP/2 handshake.
	connectionTimeout = 10 * time.Second
	// stopTimeout bounds the end of a server whose handlers were cancelled.
	stopTimeout = 5 * time.Second

	defaultListenGrace = 5 * time.Second
	defaultDrain       = 30 * time.Second
)

// Config is what a Server needs.
type Config struct {
	// Mux yields the connections. The Server runs it.
	Mux *wsconn.Mux
	// Auth admits the RPCs. Its Run is the caller's.
	Auth *agentauth.Authenticator
	// Register registers the services.
	Register func(grpc.ServiceRegistrar)
	// MaxConnectionAge is the configured age A, of which connections and RPCs get fixed parts. 0 means no limit.
	MaxConnectionAge time.Duration
	// ListenGracePeriod is how long new connections are still accepted after the stop signal, while load balancers notice.
	// Default 5 s; negative means none.
	ListenGracePeriod time.Duration
	// DrainTimeout bounds waiting for running RPCs after that. Default 30 s; negative means none.
	DrainTimeout time.Duration
	Log          *zap.Logger
	Registerer   prometheus.Registerer
}

// Server serves agents.
type Server struct {
	cfg  Config
	grpc *grpc.Server
}

// New builds the server; nothing is served before Run.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Mux == nil, cfg.Auth == nil, cfg.Register == nil:
		return nil, errors.New("agentserver: Mux, Auth and Register are required")
	case cfg.Log == nil:
		cfg.Log = zap.NewNop()
	}
	cfg.ListenGracePeriod = orDefault(cfg.ListenGracePeriod, defaultListenGrace)
	cfg.DrainTimeout = orDefault(cfg.DrainTimeout, defaultDrain)

	metrics := grpcprom.NewServerMetrics()
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(metrics); err != nil {
			return nil, fmt.Errorf("register metrics of the agent server: %w", err)
		}
	}
	server := grpc.NewServer(append(transportOptions(cfg.MaxConnectionAge),
		grpc.ForceServerCodecV2(frame.Codec{}),
		grpc.Creds(agentauth.Credentials()),
		grpc.InTapHandle(agentauth.Tap),
		// Outside in: count, then authenticate, validate, limit.
		grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), cfg.Auth.UnaryInterceptor),
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), cfg.Auth.StreamInterceptor),
	)...)
	cfg.Register(server)
	metrics.InitializeMetrics(server)
	return &Server{cfg: cfg, grpc: server}, nil
}

// transportOptions are the limits of the HTTP/2 transport. The number of streams is neither limited nor announced here, see
// agentauth.Tap.
func transportOptions(age time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      share(age, ageShare),
			MaxConnectionAgeGrace: share(age, graceShare),
			Time:                  pingAfter,
			Timeout:               pingTimeout,
		}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.ConnectionTimeout(connectionTimeout),
	}
}

// share is a part of the maximum age; the library takes the largest duration for no limit.
func share(age time.Duration, part float64) time.Duration {
	if age <= 0 {
		return math.MaxInt64
	}
	return max(time.Duration(part*float64(age)), 1)
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

// Run serves until ctx ends, and then stops in order: accept for the grace period, end long polls, refuse new RPCs and let
// running ones finish, cut what is left. It returns when nothing of it runs any more.
func (s *Server) Run(ctx context.Context) error {
	// The listener outlives ctx by the grace period; closing it is what ends the Mux.
	listener := s.cfg.Mux.GRPCListener()
	accepting := make(chan error, 1)
	serving := make(chan error, 1)
	go func() { accepting <- s.cfg.Mux.Run(context.WithoutCancel(ctx)) }()
	go func() { serving <- s.grpc.Serve(listener) }()

	var acceptErr, serveErr error
	accepted, served := false, false
	select {
	case <-ctx.Done():
		s.cfg.Log.Info("Agent server is stopping", zap.Duration("listen_grace_period", s.cfg.ListenGracePeriod))
		grace := time.NewTimer(s.cfg.ListenGracePeriod)
		defer grace.Stop()
		select {
		case <-grace.C:
		case acceptErr = <-accepting:
			accepted = true
		}
	case acceptErr = <-accepting:
		accepted = true
	case serveErr = <-serving:
		served = true
	}
	clean := s.stop()
	_ = listener.Close() // Serve closes it too, unless it never began
	if !accepted {
		acceptErr = <-accepting
	}
	if !served && clean {
		serveErr = <-serving
	}
	if errors.Is(serveErr, grpc.ErrServerStopped) {
		serveErr = nil
	}
	return errors.Join(acceptErr, serveErr)
}

// stop ends all RPCs, politely at first: the GOAWAY goes out before long polls end, so that agents take their next poll
// elsewhere. A handler that ignores its cancelled context is left behind after stopTimeout, with a log line, because nothing
// else can be done about it; stop then says false.
func (s *Server) stop() bool {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	s.cfg.Auth.EndLongPolls()
	if closedWithin(graceful, s.cfg.DrainTimeout) {
		return true
	}
	s.cfg.Log.Warn("Agent RPCs did not finish in time, cutting them", zap.Duration("drain_timeout", s.cfg.DrainTimeout))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.Stop()
	}()
	if !closedWithin(stopped, stopTimeout) || !closedWithin(graceful, stopTimeout) {
		s.cfg.Log.Error("Agent RPC handlers ignore that their connection is gone")
		return false
	}
	return true
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
