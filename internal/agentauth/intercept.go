package agentauth

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // stock agents compress every message with it
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/internal/aside"
)

// rpc is the state of one RPC, kept in its context.
type rpc struct {
	auth     *Authenticator
	conn     *connection
	token    string
	key      tokenKey
	pollsEnd time.Time
	late     bool // began after Polls.End
	// generation is that of the backend when the token was last resolved for this RPC.
	generation atomic.Uint64
	// agentID is what it was resolved to; 0: not yet.
	agentID atomic.Int64
}

type rpcKey struct{}

func rpcOf(ctx context.Context) *rpc {
	r, _ := ctx.Value(rpcKey{}).(*rpc)
	return r
}

// TokenFromContext is the agent token of an RPC, "" outside of one.
func TokenFromContext(ctx context.Context) string {
	if r := rpcOf(ctx); r != nil {
		return r.token
	}
	return ""
}

// UnaryInterceptor authenticates, validates and counts, in this order, and survives panics.
func (a *Authenticator) UnaryInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer a.recovered(info.FullMethod, &err)
	ctx, r, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.valid(ctx, info.FullMethod, req); err != nil {
		return nil, err
	}
	if err := a.admit(ctx, r); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// StreamInterceptor is UnaryInterceptor for streams; each message is validated as it is received.
func (a *Authenticator) StreamInterceptor(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer a.recovered(info.FullMethod, &err)
	s := &stream{ServerStream: ss, auth: a, method: info.FullMethod, single: !info.IsClientStream}
	if err := aside.Do(s.begin); err != nil { // streams wait for hours
		return err
	}
	return handler(srv, s)
}

// begin takes the token and builds the RPC's context.
func (a *Authenticator) begin(ctx context.Context) (context.Context, *rpc, error) {
	// Without this, answers to a peer that compresses would be compressed too, which costs more than it saves here. It
	// cannot fail for identity on a stream that has sent nothing.
	if err := grpc.SetSendCompressor(ctx, "identity"); err != nil {
		return nil, nil, status.Errorf(codes.Internal, "set compressor: %v", err)
	}
	token, err := bearer(ctx)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	r := &rpc{auth: a, conn: connectionOf(ctx), token: token, key: keyOf(token)}
	connected := now
	if r.conn != nil {
		connected = r.conn.start
	}
	r.pollsEnd = a.pollsEnd(connected, now)
	if r.conn != nil && r.conn.polls.ended() {
		r.late, r.pollsEnd = true, now.Add(latePoll)
	}
	return context.WithValue(ctx, rpcKey{}, r), r, nil
}

// valid checks a received message. Messages that are passed on as raw bytes are checked by whoever reads them.
func (a *Authenticator) valid(ctx context.Context, method string, m any) error {
	message, ok := m.(proto.Message)
	if !ok || a.cfg.Validate == nil {
		return nil
	}
	if err := a.cfg.Validate(message); err != nil {
		LogProtocolError(ctx, a.cfg.Log, err, zap.String("grpc_method", method))
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// recovered turns a panic into an error the peer may see. What panicked stays in the log.
func (a *Authenticator) recovered(method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	a.panics.Inc()
	a.cfg.Log.Error("RPC panicked", zap.String("grpc_method", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	*err = status.Error(codes.Internal, "internal error in kas")
}

// stream is a server stream with the RPC's context and validation.
type stream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // this is how gRPC replaces the context of a stream
	auth   *Authenticator
	method string
	// single: there is one message to receive, before the stream begins to wait.
	single bool
}

// begin authenticates and counts.
func (s *stream) begin() error {
	ctx, r, err := s.auth.begin(s.ServerStream.Context())
	if err != nil {
		return err
	}
	s.ctx = ctx
	return s.auth.admit(ctx, r)
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) RecvMsg(m any) error {
	if s.single {
		return aside.Do(func() error { return s.receive(m) })
	}
	return s.receive(m)
}

func (s *stream) receive(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.auth.valid(s.ctx, s.method, m)
}
