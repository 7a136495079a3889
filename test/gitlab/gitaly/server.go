// Package gitaly is a Gitaly for tests: its read RPCs over real bare repositories, answered by git itself. It behaves as one of several
// releases, whose answers to the same question differ, and can be told to be slow, busy or broken. It records what it is asked.
package gitaly

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// idlePing is how long a connection is quiet before the server looks after it.
const idlePing = 5 * time.Minute

// Config says what to serve and how to behave.
type Config struct {
	// Storages are the directories of storages by name.
	Storages map[string]string
	// Token is the secret that clients prove to have; empty: everybody may come. Transitioning: everybody may come all the same.
	Token         string
	Transitioning bool
	// Personality is the release to behave as; default the newest.
	Personality Personality
	// Praefect makes it speak as Praefect does where that answers in Gitaly's place.
	Praefect bool
	// Socket is the path of its unix socket; empty: none. It also listens on a free port of 127.0.0.1.
	Socket string
	// Certificate adds a port with TLS.
	Certificate *tls.Certificate
	// Home is git's home, which should be empty.
	Home string
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Server is a running Gitaly.
type Server struct {
	gitaly.UnimplementedSmartHTTPServiceServer
	gitaly.UnimplementedCommitServiceServer
	gitaly.UnimplementedRefServiceServer
	gitaly.UnimplementedBlobServiceServer
	gitaly.UnimplementedRepositoryServiceServer
	gitaly.UnimplementedServerServiceServer

	cfg       Config
	program   string
	unix      string
	tcp, tls  string
	servers   []*grpc.Server
	listening sync.WaitGroup

	// mu guards everything below.
	mu     sync.Mutex
	chunks []int
	faults []*Fault
	calls  []*Call
	cache  cache
}

// Start starts one.
func Start(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Personality == 0 {
		cfg.Personality = V18
	}
	if cfg.Home == "" {
		cfg.Home = os.DevNull
	}
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, program: program, chunks: slices.Clone(defaultChunks), cache: cache{on: true, answers: map[string]map[string][]byte{}}}
	if err := s.listen(); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start Gitaly double: %w", err)
	}
	return s, nil
}

func (s *Server) listen() error {
	plain := s.newServer()
	if s.cfg.Socket != "" {
		if err := s.serve(plain, "unix", s.cfg.Socket, &s.unix); err != nil {
			return err
		}
	}
	if err := s.serve(plain, "tcp", "127.0.0.1:0", &s.tcp); err != nil {
		return err
	}
	if s.cfg.Certificate == nil {
		return nil
	}
	secure := s.newServer(grpc.Creds(credentials.NewServerTLSFromCert(s.cfg.Certificate)))
	return s.serve(secure, "tcp", "127.0.0.1:0", &s.tls)
}

func (s *Server) serve(server *grpc.Server, network, address string, bound *string) error {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return err
	}
	*bound = listener.Addr().String()
	s.listening.Go(func() { _ = server.Serve(listener) })
	return nil
}

func (s *Server) newServer(more ...grpc.ServerOption) *grpc.Server {
	options := append(more,
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream), grpc.UnknownServiceHandler(s.unknown),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: idlePing}),
	)
	if floor := s.cfg.Personality.pingFloor(); floor > 0 {
		options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: floor, PermitWithoutStream: true}))
	}
	server := grpc.NewServer(options...)
	gitaly.RegisterSmartHTTPServiceServer(server, s)
	gitaly.RegisterCommitServiceServer(server, s)
	gitaly.RegisterRefServiceServer(server, s)
	gitaly.RegisterBlobServiceServer(server, s)
	gitaly.RegisterRepositoryServiceServer(server, s)
	gitaly.RegisterServerServiceServer(server, s)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	s.servers = append(s.servers, server)
	return server
}

// Stop ends all calls and waits for them. It may be called more than once.
func (s *Server) Stop() {
	for _, server := range s.servers {
		server.Stop()
	}
	s.listening.Wait()
}

// UnixAddress is the address of its unix socket, as GitLab hands it out.
func (s *Server) UnixAddress() string { return "unix:" + s.unix }

// TCPAddress is its address on the loopback, TLSAddress that with TLS.
func (s *Server) TCPAddress() string { return "tcp://" + s.tcp }

// TLSAddress is the address of its port with TLS.
func (s *Server) TLSAddress() string { return "tls://" + s.tls }

// unknown answers what is no method at all.
func (s *Server) unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return s.unknownMethod(method)
}

func (s *Server) unknownMethod(method string) error {
	if s.cfg.Praefect {
		return status.Errorf(codes.Internal, "full method name not found: %s", method)
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

var errNoDirectory = errors.New("no such directory")
