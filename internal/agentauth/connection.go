package agentauth

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

const (
	// maxStreams bounds the streams one connection may have open at a time. It is far above what an agent needs; it is not
	// announced to the peer, since stock agents would queue behind it.
	maxStreams = 20_000
	// maxTokens bounds the tokens remembered per connection. One agent has one; a proxy may carry many agents.
	maxTokens = 1024
	// logEvery is how often one connection may write a protocol error to the log.
	logEvery = time.Minute
)

// connection is what kas knows of one transport connection of the agent listener.
type connection struct {
	credentials.CommonAuthInfo
	start   time.Time
	polls   *Polls
	streams atomic.Int64

	// mu guards the fields below.
	mu         sync.Mutex
	counted    counts
	logged     time.Time
	suppressed int
}

// AuthType names this AuthInfo.
func (*connection) AuthType() string { return "agent" }

func newConnection(polls *Polls) *connection {
	return &connection{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		start:          time.Now(),
		polls:          polls,
	}
}

// connectionOf finds the connection of an RPC, nil if it came another way than through Credentials.
func connectionOf(ctx context.Context) *connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	c, _ := p.AuthInfo.(*connection)
	return c
}

// Credentials gives every connection its state, and its long polls to polls, which may be nil. They secure nothing: TLS is done
// before.
func Credentials(polls *Polls) credentials.TransportCredentials { return stateful{polls} }

type stateful struct{ polls *Polls }

func (s stateful) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, newConnection(s.polls), nil
}

func (stateful) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (stateful) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

func (s stateful) Clone() credentials.TransportCredentials { return s }

func (stateful) OverrideServerName(string) error { return nil }

// Tap refuses streams beyond maxStreams before anything is spent on them.
func Tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	c := connectionOf(ctx)
	if c == nil {
		return ctx, nil
	}
	if c.streams.Add(1) > maxStreams {
		c.streams.Add(-1)
		return nil, status.Error(codes.ResourceExhausted, "too many streams on this connection")
	}
	context.AfterFunc(ctx, func() { c.streams.Add(-1) })
	return ctx, nil
}

// LogProtocolError writes a peer's breach of the protocol to the log, at most once per connection and minute.
func LogProtocolError(ctx context.Context, log *zap.Logger, err error, fields ...zap.Field) {
	c := connectionOf(ctx)
	if c != nil {
		c.mu.Lock()
		now := time.Now()
		if !c.logged.IsZero() && now.Sub(c.logged) < logEvery {
			c.suppressed++
			c.mu.Unlock()
			return
		}
		if c.suppressed > 0 {
			fields = append(fields, zap.Int("suppressed", c.suppressed))
		}
		c.logged, c.suppressed = now, 0
		c.mu.Unlock()
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		fields = append(fields, zap.Stringer("remote", p.Addr))
	}
	log.Warn("Agent broke the protocol", append(fields, zap.Error(err))...)
}
