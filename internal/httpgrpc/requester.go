package httpgrpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// maxFrame is the most payload one sent frame carries; every version of the peer accepts it.
	maxFrame = 32 << 10
	// queuedFrames bounds what is received ahead of a slow client. Beyond it gRPC flow control holds the peer back.
	queuedFrames = 4
	// sendGrace is how long the peer may take to end the call after it stopped taking the request.
	sendGrace = 5 * time.Second
	// bodyGrace is how long the rest of the request may take once the response is complete. It covers the last frames of a
	// request that the peer answered just before its end.
	bodyGrace = 100 * time.Millisecond
)

// Exchange is one HTTP exchange as the requester wants it performed.
type Exchange struct {
	// Method and Path (decoded) are not empty.
	Method, Path string
	Query        url.Values
	// Header goes to the peer as it is. An Upgrade in it asks for an upgrade.
	Header http.Header
	// Extra travels beside the request, nil if there is nothing to say.
	Extra *anypb.Any
	// ContentLength is -1 if it is not known and 0 if there is no body; Body is then not read.
	ContentLength int64
	// Body is read by one goroutine that ends before Do returns.
	Body io.Reader
	// Multiplexed: the client's connection carries other exchanges too (HTTP/2). It stays open when this one ends before its request.
	// Otherwise (HTTP/1) the client takes an answer of known length for complete when its last byte is there, so that this byte goes out at
	// once, not only when the peer has ended its side.
	Multiplexed bool
	// Respond is called once with the peer's status and header, before anything is written, and for a 101 after the
	// connection was taken over. It puts what the client shall get into the header of the http.ResponseWriter and may keep
	// parts of peer.
	Respond func(status int, peer http.Header)
}

// Result says what has happened, also when Do fails.
type Result struct {
	// Status of the response; 0 if there was none.
	Status int
	// Committed: the client has (a part of) the response. If Do failed as well, the client connection must be aborted.
	Committed bool
	// Done: both directions of the call ended in order.
	Done bool
	// Sent and Received count bytes of body and upgraded data: Sent from client to peer, Received the other way.
	Sent, Received int64
}

// Requester performs exchanges over one call each.
type Requester struct {
	// Stream is the call.
	Stream RequesterStream
	// Abort ends the call: a Send or Recv that waits fails soon after.
	Abort context.CancelFunc
}

// Do performs x for the client behind w. It returns after every Send and Recv of the stream has returned; an upgraded client
// connection is closed then. ctx is the request's: when it ends, Stream must fail, and an upgraded connection is closed at
// once. A failure is an *Error.
func (q *Requester) Do(ctx context.Context, w http.ResponseWriter, x *Exchange) (Result, error) {
	e := &requesterExchange{
		ctx: ctx, w: w, rc: http.NewResponseController(w), x: x, s: q.Stream, abort: q.Abort,
		upgrade: len(UpgradeOf(x.Header)) > 0,
	}
	err := e.run()
	e.res.Sent = e.sent.Load()
	return e.res, err
}

// requesterExchange is the state of one Do. The goroutine of Do owns everything but the fields named below it.
type requesterExchange struct {
	ctx   context.Context
	w     http.ResponseWriter
	rc    *http.ResponseController
	x     *Exchange
	s     RequesterStream
	abort context.CancelFunc
	// upgrade: the client asked for one.
	upgrade bool

	res Result
	// unflushed: something was written and not flushed yet.
	unflushed bool
	late      lateFlush
	// bodyless: the response has no body whatever its header says. declared is its Content-Length, -1 without.
	bodyless bool
	declared int64
	// whole: the client has all of the answer. abandoned: it has left then, before the peer had ended its side.
	whole, abandoned bool
	// switching is the header of a 101, kept until the connection is taken over.
	switching http.Header

	// in carries received frames; receive closes it. nil: no goroutine receives yet, next does it itself. resume is closed to receive
	// on after the trailer of an upgrade and nil for other requests, stop to make receive give up handing over.
	in     chan inbound
	resume chan struct{}
	stop   chan struct{}

	wg sync.WaitGroup
	// pumped is closed when the body pump has ended; nil without a pump.
	pumped chan struct{}
	// bodyEnd: all of the request body was read. requestEnd: all of the request was sent, half-close included.
	bodyEnd, requestEnd atomic.Bool
	sent                atomic.Int64
	// gaveUp: the call was aborted here, since the peer took no more of it and did not end it either.
	gaveUp atomic.Bool

	mu sync.Mutex
	// mu guards why, the first failure of the sending side, and the timer that gives up after it. failed is closed when why
	// makes the exchange pointless; nil without a pump, since nothing else can.
	why        *Error
	graceTimer *time.Timer
	failed     chan struct{}
}

// inbound is one received frame or the end of the call.
type inbound struct {
	member protowire.Number
	data   mem.BufferSlice
	err    error
}

func (e *requesterExchange) run() error {
	finished := false
	defer func() {
		if !finished {
			// Respond has panicked: nothing that was started may outlive this call.
			e.finish(errUnfinished)
		}
	}()
	if e.x.ContentLength != 0 {
		e.failed = make(chan struct{})
		e.listen() // the peer may answer, or end the call, while the body is on its way
	}
	err := e.request()
	if err == nil {
		err = e.response()
	}
	finished = true
	e.finish(err)
	return err
}

var errUnfinished = errors.New("the exchange was abandoned")

// request sends the header and, without a body, the whole request. A body is pumped beside the response.
func (e *requesterExchange) request() error {
	head, err := marshalHead(e.x)
	if err != nil {
		return &Error{Stage: StageSendHeader, Hop: hopKas, Err: err}
	}
	if !e.send(StageSendHeader, head) {
		return nil
	}
	if e.x.ContentLength == 0 {
		e.bodyEnd.Store(true)
		e.endRequest()
		return nil
	}
	// HTTP/1.1 would otherwise read the rest of the body before the first byte of the response.
	_ = e.rc.EnableFullDuplex()
	e.pumped = make(chan struct{})
	e.wg.Go(e.pump)
	return nil
}

// send sends one frame and notes a failure. What the peer says about it comes with Recv, so the exchange goes on until then,
// for a while: an early answer may be on its way.
func (e *requesterExchange) send(stage string, msg mem.BufferSlice) bool {
	err := e.s.Send(msg)
	if err != nil {
		e.sendFailed(stage, err)
	}
	return err == nil
}

func (e *requesterExchange) sendFailed(stage string, err error) {
	if errors.Is(err, io.EOF) {
		stage = StageRead // the peer has ended the call in order, its status says why
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why == nil {
		e.why = e.streamError(stage, err)
		e.graceTimer = time.AfterFunc(sendGrace, func() {
			e.gaveUp.Store(true)
			e.abort()
		})
	}
}

// endRequest sends what follows the body. After an upgrade request the sending side stays open.
func (e *requesterExchange) endRequest() {
	if e.send(StageSendTrailer, frame.Empty(frame.HTTPTrailer)) && !e.upgrade {
		e.closeSend()
	}
}

func (e *requesterExchange) closeSend() {
	if err := e.s.CloseSend(); err != nil {
		e.sendFailed(StageSendClose, err)
		return
	}
	e.requestEnd.Store(true)
}

// pump carries the request body to the peer.
func (e *requesterExchange) pump() {
	defer close(e.pumped)
	pool := mem.DefaultBufferPool()
	size := maxFrame
	if n := e.x.ContentLength; n > 0 && n < maxFrame {
		size = int(n)
	}
	for {
		buf := pool.Get(size)
		n, err := e.x.Body.Read(*buf)
		if n > 0 {
			*buf = (*buf)[:n]
			if !e.send(StageSendData, frame.Wrap(frame.HTTPData, mem.BufferSlice{mem.NewBuffer(buf, pool)})) {
				return
			}
			e.sent.Add(int64(n))
		} else {
			pool.Put(buf)
		}
		if errors.Is(err, io.EOF) {
			e.bodyEnd.Store(true)
			e.endRequest()
			return
		}
		if err != nil {
			e.fail(&Error{Stage: StageReadBody, Hop: hopClient, Err: err})
			return
		}
	}
}

// fail notes a failure that makes the exchange pointless.
func (e *requesterExchange) fail(err *Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why == nil || e.why.Hop != hopClient {
		e.why = err
	}
	select {
	case <-e.failed:
	default:
		close(e.failed)
	}
}

func (e *requesterExchange) failure() *Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.why
}

// listen lets a goroutine receive from now on, so that frames are seen while there is something else to do: a body to send, or an answer
// to flush that has paused. A request that waits for its answer and nothing else needs none.
func (e *requesterExchange) listen() {
	e.in = make(chan inbound, queuedFrames)
	e.stop = make(chan struct{})
	if e.upgrade {
		e.resume = make(chan struct{})
	}
	e.wg.Go(e.receive)
}

// receive hands frames over until the call ends, or until the response is complete and no upgrade follows.
func (e *requesterExchange) receive() {
	defer close(e.in)
	for {
		m := e.receiveOne()
		select {
		case e.in <- m:
		case <-e.stop:
			m.data.Free()
			return
		}
		if m.err != nil {
			return
		}
		if m.member == frame.HTTPTrailer {
			select {
			case <-e.resume:
			case <-e.stop:
				return
			}
		}
	}
}

func (e *requesterExchange) receiveOne() inbound {
	msg, err := e.s.Recv()
	if err != nil {
		return inbound{err: err}
	}
	member, err := frame.Member(msg, frame.HTTPUpgradeData)
	if err != nil {
		msg.Free()
		return inbound{err: protocolError("%v", err)}
	}
	return inbound{member: member, data: msg}
}

// finish waits for everything that run started. Whatever still waits is woken: a body read by a deadline in the past, Send and
// Recv by aborting the call.
func (e *requesterExchange) finish(err error) {
	if e.pumped != nil {
		e.finishBody(err)
	}
	e.res.Done = err == nil && e.requestEnd.Load() && !e.abandoned
	if !e.res.Done {
		e.abort()
	}
	if e.in != nil {
		close(e.stop)
		e.wg.Wait()
		for m := range e.in {
			m.data.Free()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.graceTimer != nil {
		e.graceTimer.Stop()
	}
}

// finishBody ends the body pump. A connection with the rest of a body on it serves no further request, unless a stream of it is all that
// the body was on.
func (e *requesterExchange) finishBody(err error) {
	if err == nil {
		if e.unflushed {
			_ = e.rc.Flush()
		}
		grace := time.NewTimer(bodyGrace)
		defer grace.Stop()
		select {
		case <-e.pumped:
		case <-grace.C:
		}
	}
	if e.bodyEnd.Load() {
		return
	}
	if !e.res.Committed && !e.x.Multiplexed {
		e.w.Header().Set(headerConnection, "close")
	}
	_ = e.rc.SetReadDeadline(time.Unix(1, 0))
}
