package railsapi

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // callers may compress what they send
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/notifications"
	"gitlab.com/agentk/agentk/internal/rules"
)

// callTimeout bounds a call whose client set no deadline of its own. Rails gives up after some seconds.
const callTimeout = 30 * time.Second

// watch is around every call: it bounds it, survives its panics, and reports what kas could not do.
type watch struct {
	log    *zap.Logger
	panics prometheus.Counter
}

func newWatch(log *zap.Logger, registerer prometheus.Registerer) (*watch, error) {
	w := &watch{log: log, panics: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kas_api_panics_total",
		Help: "Calls of GitLab Rails that ended in a panic",
	})}
	if registerer != nil {
		if err := registerer.Register(w.panics); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *watch) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.panics.Inc()
			w.log.Error("RPC panicked", zap.String("grpc_method", info.FullMethod), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "internal error in kas")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// An answer to a compressed question would be compressed too, which costs more than it saves between neighbours.
	if err := grpc.SetSendCompressor(ctx, "identity"); err != nil {
		return nil, status.Errorf(codes.Internal, "set compressor: %v", err)
	}
	resp, err = handler(ctx, req)
	if code := status.Code(err); code == codes.Unavailable || code == codes.Internal || code == codes.Unknown {
		w.log.Error("Call of Rails failed", zap.String("grpc_method", info.FullMethod), zap.Error(err))
	}
	return resp, err
}

// validate holds a request to the constraints beside its fields.
func validate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if push, ok := req.(*notifications.GitPushEventRequest); ok {
		adoptOldForm(push)
	}
	if m, ok := req.(proto.Message); ok {
		if err := rules.Validate(m); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	return handler(ctx, req)
}
