package httpgrpc

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// defaultMaxHeaderBytes bounds one HttpRequest.Header frame; an API server accepts no more either.
	defaultMaxHeaderBytes = 1 << 20
	// drainTimeout is how long a complete answer waits for the requester to finish a body that nobody reads any more. Older
	// requesters read the answer only after they have sent everything.
	drainTimeout = 10 * time.Second
)

// Performer performs the requests that a Responder receives.
type Performer interface {
	// RoundTrip performs req under the rules of http.RoundTripper, with these additions. The URL of req has a path and a query
	// only; where it goes is the Performer's decision. The context of req lives until the answer has been passed on. extra is
	// the part of the request header that is specific to the called service, nil if there is none. The Body of an answer 101
	// is an io.ReadWriteCloser whose Close ends pending reads and writes. A Body may have a method Buffered() int that says how
	// many bytes of it have come already, with the framing of chunks. An error that is a gRPC status or a fault reaches the
	// requester as it is; its text is shown to users and names the hop.
	RoundTrip(req *http.Request, extra *anypb.Any) (*http.Response, error)
}

// ResponderConfig configures a Responder.
type ResponderConfig struct {
	Performer Performer
	// MaxHeaderBytes bounds the serialized request header. Zero means 1 MiB.
	MaxHeaderBytes int
}

// ErrStopping is the cause of the end of a context of Serve because the agent stops. Watches then end in order, as at an API
// server that stops, and their clients take them up again elsewhere; any other request ends with this error.
var ErrStopping = fault.New(fault.Unavailable, fault.Agent, "agent is shutting down")

// Responder is the side of a call that performs the HTTP request. It is full duplex: the answer may begin before the request
// body has ended, and it is passed on even when the body is never read to its end.
type Responder struct{ cfg ResponderConfig }

// NewResponder returns a Responder. It fails without a Performer.
func NewResponder(cfg ResponderConfig) (*Responder, error) {
	if cfg.Performer == nil {
		return nil, fmt.Errorf("httpgrpc: a Responder needs a Performer")
	}
	if cfg.MaxHeaderBytes == 0 {
		cfg.MaxHeaderBytes = defaultMaxHeaderBytes
	}
	return &Responder{cfg: cfg}, nil
}

// Serve answers one call. The error, if any, is a gRPC status for the requester.
//
// Serve never waits for a silent requester once the answer is complete. So when it returns, one last Recv may still be under
// way in a goroutine of its own, which discards what it gets and ends with it: the owner of the stream ends that Recv by
// ending the stream.
func (r *Responder) Serve(ctx context.Context, s ResponderStream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &served{ctx: ctx, cancel: cancel, stream: s, frames: requestFrames{stream: s}}
	return x.status(x.serve(&r.cfg))
}

// served is one call under way.
type served struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream ResponderStream
	// frames is used by one goroutine at a time: Serve, then the body's pump, then the upgraded connection's.
	frames requestFrames
	// body is nil when the request has none.
	body *requestBody
	// watch: the request asks for events until somebody ends it.
	watch bool
}

// serve has no deferred calls, which cost stack: should it panic, the end of x.ctx lets go of both bodies.
func (x *served) serve(cfg *ResponderConfig) error {
	resp, err := x.perform(cfg)
	if err == nil {
		err = x.respond(resp)
		_ = resp.Body.Close()
	}
	if x.body != nil {
		_ = x.body.Close()
	}
	return err
}

// perform receives the request and has it performed.
func (x *served) perform(cfg *ResponderConfig) (*http.Response, error) {
	req, extra, err := x.request(cfg.MaxHeaderBytes)
	if err != nil {
		return nil, err
	}
	x.stream.Ahead()
	if x.body != nil {
		go x.body.pump(x.ctx, &x.frames, x.cancel)
	}
	resp, err := cfg.Performer.RoundTrip(req, extra)
	if err != nil {
		return nil, unperformed(err)
	}
	return resp, nil
}

// request receives the request. Its body, if it has one, is still to be fed.
func (x *served) request(maxHeaderBytes int) (*http.Request, *anypb.Any, error) {
	head, err := x.frames.header(maxHeaderBytes)
	if err != nil {
		return nil, nil, err
	}
	req, err := newRequest(x.ctx, head)
	if err != nil {
		return nil, nil, err
	}
	x.watch = Watches(req)
	x.frames.upgrade = len(UpgradeOf(req.Header)) > 0
	if err := x.attachBody(req, head); err != nil {
		return nil, nil, err
	}
	return req, head.extra, nil
}
