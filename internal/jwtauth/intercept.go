package jwtauth

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// What callers read. Why a token is refused is told in the log only: the caller may be a stranger.
var (
	errNoBearer  = status.Error(codes.Unauthenticated, "Request unauthenticated with bearer")
	errBadBearer = status.Error(codes.Unauthenticated, "Bad authorization string")
	errToken     = status.Error(codes.Unauthenticated, "JWT validation failed")
)

const (
	// logEvery is how often refusals are logged; in between they are counted.
	logEvery = 10 * time.Second
	// maxReason bounds the reason in a log line, since it may name an algorithm that the caller made up.
	maxReason = 256
)

// Guard admits gRPC calls that carry a good token.
type Guard struct {
	verifier *Verifier
	log      *zap.Logger

	// mu guards the fields below.
	mu         sync.Mutex
	logged     time.Time
	suppressed int
}

// NewGuard returns a Guard that writes refusals to log.
func NewGuard(v *Verifier, log *zap.Logger) *Guard { return &Guard{verifier: v, log: log} }

// UnaryInterceptor admits or refuses a call.
func (g *Guard) UnaryInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// StreamInterceptor admits or refuses a stream, once.
func (g *Guard) StreamInterceptor(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := g.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

func (g *Guard) admit(ctx context.Context, method string) error {
	token, err := bearer(ctx)
	if err != nil {
		g.refused(ctx, method, status.Convert(err).Message())
		return err
	}
	if err := g.verifier.Verify(token); err != nil {
		g.refused(ctx, method, err.Error())
		return errToken
	}
	return nil
}

// bearer takes the token out of the metadata. Rails writes the scheme in lower case. With several values the first one counts.
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return "", errNoBearer
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found {
		return "", errBadBearer
	}
	if !strings.EqualFold(scheme, "bearer") {
		return "", errNoBearer
	}
	return token, nil
}

// refused logs why, at most every logEvery.
func (g *Guard) refused(ctx context.Context, method, reason string) {
	g.mu.Lock()
	now := time.Now()
	if !g.logged.IsZero() && now.Sub(g.logged) < logEvery {
		g.suppressed++
		g.mu.Unlock()
		return
	}
	suppressed := g.suppressed
	g.logged, g.suppressed = now, 0
	g.mu.Unlock()
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	fields := []zap.Field{zap.String("grpc_method", method), zap.String("error", reason)}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed", suppressed))
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		fields = append(fields, zap.Stringer("remote", p.Addr))
	}
	g.log.Warn("Call refused", fields...)
}
