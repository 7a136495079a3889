package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/grpcserver"
	"gitlab.com/agentk/agentk/internal/jwtauth"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	// The buffers are those of the agent listener, whose frames pass here.
	bufferSize = 32 << 10
	// The window of a stream is that of the agent listener, too, so that two zones of a region are no bottleneck behind it.
	streamWindow = 2 << 20
	connWindow   = 16 << 20

	defaultDrain = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// ServerConfig configures a Server. All fields are required unless they say otherwise.
type ServerConfig struct {
	// Listener yields the connections. The Server closes it.
	Listener net.Listener
	// TLS is put around the listener; nil: the connections are used as they come.
	TLS *tls.Config
	// Keys hold the secret that the replicas share.
	Keys jwtauth.Keys
	// Registry holds the streams of the agents of this kas.
	Registry *tunnel.Registry
	// Methods are the agents' services that may be called, and their methods.
	Methods map[string][]string
	// MaxConnectionAge is the configured age, of which connections get fixed parts. 0: no limit.
	MaxConnectionAge time.Duration
	// DrainTimeout bounds waiting for running calls at the stop. 0 is 10 s, negative is none.
	DrainTimeout time.Duration
	Log          *zap.Logger
	// Registerer gets the metrics; nil means none. The grpc_server metrics of another server in it are shared.
	Registerer prometheus.Registerer
}

// Server is the private API.
type Server struct {
	cfg     ServerConfig
	grpc    *grpc.Server
	gateway *gateway
	panics  prometheus.Counter
}

// NewServer builds the server; nothing is served before Run.
func NewServer(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Listener == nil, cfg.Keys == nil, cfg.Registry == nil, len(cfg.Methods) == 0, cfg.Log == nil:
		return nil, errors.New("peer: Listener, Keys, Registry, Methods and Log are required")
	}
	switch {
	case cfg.DrainTimeout == 0:
		cfg.DrainTimeout = defaultDrain
	case cfg.DrainTimeout < 0:
		cfg.DrainTimeout = 0
	}
	if cfg.TLS != nil {
		t := cfg.TLS.Clone()
		t.NextProtos = []string{"h2"}
		cfg.Listener = tls.NewListener(cfg.Listener, t)
	}
	verifier, err := jwtauth.NewVerifier(jwtauth.Config{Keys: cfg.Keys, Audience: audience, Issuer: issuer})
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, panics: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kas_private_api_panics_total",
		Help: "Calls of other replicas that ended in a panic",
	})}
	metrics, err := s.register(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	guard := jwtauth.NewGuard(verifier, cfg.Log)
	s.gateway = &gateway{registry: cfg.Registry, served: map[string]struct{}{}, survive: s.survive, stopping: make(chan struct{})}
	bulk := []string{seriesPath}
	for service, methods := range cfg.Methods {
		for _, method := range methods {
			s.gateway.served["/"+service+"/"+method] = struct{}{}
			bulk = append(bulk, "/"+service+"/"+method)
		}
	}
	// Outside in: count, survive panics, authenticate.
	s.grpc = grpc.NewServer(append(transportOptions(cfg.MaxConnectionAge),
		grpc.ForceServerCodecV2(frame.Codec{}),
		grpc.WaitForHandlers(true),
		grpc.ChainStreamInterceptor(grpcserver.CountStreams(metrics, bulk...), s.survive, guard.StreamInterceptor),
		grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), guard.UnaryInterceptor),
	)...)
	for service, methods := range cfg.Methods {
		desc := &grpc.ServiceDesc{ServiceName: service}
		for _, method := range methods {
			desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: method, Handler: s.gateway.serve, ClientStreams: true, ServerStreams: true})
		}
		s.grpc.RegisterService(desc, nil)
	}
	s.grpc.RegisterService(&grpc.ServiceDesc{ServiceName: seriesService, Streams: []grpc.StreamDesc{
		{StreamName: seriesMethod, Handler: s.gateway.serveSeries, ClientStreams: true, ServerStreams: true},
	}}, nil)
	metrics.InitializeMetrics(s.grpc)
	return s, nil
}

// register registers the metrics.
func (s *Server) register(registerer prometheus.Registerer) (*grpcserver.ServerMetrics, error) {
	if registerer != nil {
		if err := registerer.Register(s.panics); err != nil {
			return nil, fmt.Errorf("register metrics of the private API: %w", err)
		}
	}
	return grpcserver.Metrics(registerer)
}

func transportOptions(age time.Duration) []grpc.ServerOption {
	return append(grpcserver.Limits(age),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
	)
}

// survive turns a panic into an error of one call.
func (s *Server) survive(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Inc()
			s.cfg.Log.Error("RPC panicked", zap.String("grpc_method", info.FullMethod), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = status.Error(codes.Internal, "internal error in the other kas")
		}
	}()
	return handler(srv, stream)
}

// Run serves until ctx ends. What the Registry's agents still answer then may do so for DrainTimeout; what is left is cut.
func (s *Server) Run(ctx context.Context) error {
	defer s.gateway.pumps.Wait()
	serving := make(chan error, 1)
	go func() { serving <- s.grpc.Serve(s.cfg.Listener) }()
	select {
	case err := <-serving:
		return fmt.Errorf("serve the private API: %w", err)
	case <-ctx.Done():
	}
	s.stop()
	if err := <-serving; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve the private API: %w", err)
	}
	return nil
}

// stop ends all calls. Handlers end with their streams, so that they need no bound of their own.
func (s *Server) stop() {
	close(s.gateway.stopping)
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	if closedWithin(graceful, s.cfg.DrainTimeout) {
		return
	}
	s.cfg.Log.Warn("Requests of other replicas did not finish in time, cutting them", zap.Duration("drain_timeout", s.cfg.DrainTimeout))
	s.grpc.Stop()
	if !closedWithin(graceful, stopTimeout) {
		s.cfg.Log.Error("Requests of other replicas ignore that their connection is gone")
	}
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
