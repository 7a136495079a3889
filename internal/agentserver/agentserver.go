// Package agentserver is the gRPC server of kas' agent listener: its limits, how long connections live, and the order in which
// it stops. Who may call it is decided in package agentauth, how bytes reach it in package wsconn.
package agentserver

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/grpcserver"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	// writeBuffer is what the transport gathers at most: one write becomes one WebSocket message. The library shares the buffers
	// among all connections. There is no read buffer, which each connection would hold all its life: the connections read ahead themselves.
	writeBuffer = 32 << 10
	// streamWindow and connWindow are what a peer may send unread. They are fixed, because what is measured otherwise grows to
	// 16 MiB per stream and costs pings on busy connections. The library gives a stream more when a quarter of its window is read, so
	// that 2 MiB per stream is 30 MB/s at a round trip of 50 ms; a connection gets more when a quarter of its window has come, read or
	// not. An agent with 500 streams that nobody reads can hence make kas hold 1000 MiB at the very most, 2 MiB for each.
	streamWindow = 2 << 20
	connWindow   = 8 << 20

	defaultListenGrace = 5 * time.Second
	defaultDrain       = 30 * time.Second
)

// Config is what a Server needs.
type Config struct {
	// Mux yields the connections. The Server runs it.
	Mux *wsconn.Mux
	// Auth admits the RPCs. Its Run is the caller's.
	Auth *agentauth.Authenticator
	// Register registers the services. It is called several times, for as many gRPC servers.
	Register func(grpc.ServiceRegistrar)
	// MaxConnectionAge is the configured age A, of which connections and RPCs get fixed parts. 0 means no limit.
	MaxConnectionAge time.Duration
	// ListenGracePeriod is how long new connections are still accepted after the stop signal, while load balancers notice.
	// Default 5 s; negative means none.
	ListenGracePeriod time.Duration
	// Needed is closed when no request that needs an agent can arrive any more; agents are not asked to leave before. nil: at
	// the end of the grace period.
	Needed <-chan struct{}
	// DrainTimeout bounds waiting for running RPCs after that. Default 30 s; negative means none.
	DrainTimeout time.Duration
	Log          *zap.Logger
	Registerer   prometheus.Registerer
}

// Server serves agents.
type Server struct {
	cfg    Config
	groups []*group
	// cutting is done when the first RPC is cut.
	cutting sync.Once
}

// group is a part of the connections, which are asked to leave together.
type group struct {
	grpc  *grpc.Server
	polls *agentauth.Polls
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

	metrics, err := grpcserver.Metrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg}
	for range groups {
		polls := agentauth.NewPolls()
		server := grpc.NewServer(append(transportOptions(cfg.MaxConnectionAge),
			grpc.ForceServerCodecV2(frame.Codec{}),
			grpc.Creds(agentauth.Credentials(polls)),
			grpc.InTapHandle(agentauth.Tap),
			// Outside in: count, then authenticate, validate, limit.
			grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), cfg.Auth.UnaryInterceptor),
			grpc.StreamInterceptor(grpcserver.CountStreamsOf(metrics, cfg.Auth.StreamInterceptor, reversetunnel.ReverseTunnel_Connect_FullMethodName)),
		)...)
		cfg.Register(server)
		s.groups = append(s.groups, &group{grpc: server, polls: polls})
	}
	metrics.InitializeMetrics(s.groups[0].grpc)
	return s, nil
}

// transportOptions are the limits of the HTTP/2 transport. The number of streams is neither limited nor announced here, see
// agentauth.Tap.
func transportOptions(age time.Duration) []grpc.ServerOption {
	return append(grpcserver.Limits(age),
		grpc.ReadBufferSize(0),
		grpc.WriteBufferSize(writeBuffer),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
	)
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
