package kasdial

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	// probeMethod is below the path that reverse proxies route to kas, which says that it has no such method: an answer all the same.
	probeMethod = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Probe"
	// httpAnswer and lostConnection are how gRPC begins the errors that do not come from kas.
	httpAnswer = "unexpected HTTP status code received from server: "
)

var lostConnection = []string{"error reading from server", "closing transport due to", "connection error", "the connection is draining", "transport is closing"}

// gate holds streams back while a reverse proxy answers in the place of kas: to gRPC such a connection is as good as any.
type gate struct {
	// closed gets a value when the gate closes.
	closed chan struct{}

	// mu guards the fields below.
	mu     sync.Mutex
	opened chan struct{} // nil: the gate is open; otherwise closed when it opens
	reason error
}

func newGate() *gate { return &gate{closed: make(chan struct{}, 1)} }

// pass waits until the gate is open.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if opened == nil {
		return nil
	}
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// shut closes the gate, if it is open.
func (g *gate) shut(reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reason = reason
	if g.opened != nil {
		return
	}
	g.opened = make(chan struct{})
	select {
	case g.closed <- struct{}{}:
	default:
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened = nil
}

func (g *gate) why() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reason
}

// judgeUnary explains answers that are not from kas.
func (m *monitor) judgeUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if foreign := m.foreign(err); foreign != nil {
		m.gate.shut(foreign)
		return status.Error(codes.Unavailable, foreign.Error())
	}
	return err
}

// judgeStream does the same for streams, which wait while kas does not answer. How a connection fares is told by its own log lines, so
// that streams end with Canceled when it is lost or leads elsewhere.
func (m *monitor) judgeStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := m.gate.pass(ctx); err != nil {
		return nil, err
	}
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, m.streamError(err)
	}
	return &judgedStream{ClientStream: stream, monitor: m}, nil
}

// judgedStream explains why it ended.
type judgedStream struct {
	grpc.ClientStream
	monitor *monitor
}

func (s *judgedStream) RecvMsg(msg any) error {
	err := s.ClientStream.RecvMsg(msg)
	if err != nil {
		return s.monitor.streamError(err)
	}
	return nil
}

func (m *monitor) streamError(err error) error {
	if foreign := m.foreign(err); foreign != nil {
		m.gate.shut(foreign)
		return status.Error(codes.Canceled, foreign.Error())
	}
	if st := status.Convert(err); st.Code() == codes.Unavailable {
		for _, beginning := range lostConnection {
			if strings.HasPrefix(st.Message(), beginning) {
				return status.Error(codes.Canceled, "the connection to kas was lost: "+st.Message())
			}
		}
	}
	return err
}

// foreign explains an answer in HTTP, whose page gRPC quotes; nil: it is none.
func (m *monitor) foreign(err error) error {
	if err == nil {
		return nil
	}
	text, found := strings.CutPrefix(status.Convert(err).Message(), httpAnswer)
	if !found {
		return nil
	}
	number, _, _ := strings.Cut(text, " ")
	code, err := strconv.Atoi(number)
	if err != nil {
		return nil
	}
	return fmt.Errorf("gRPC with %s: expected an answer of kas but got %d%s", m.host, code, wsconn.Advice(code))
}

// probe asks kas for a sign of life while the gate is closed, with the delays of connection attempts that are answered, and opens it when
// there is one.
func (m *monitor) probe(ctx context.Context, conn grpc.ClientConnInterface) {
	for {
		select {
		case <-m.gate.closed:
		case <-ctx.Done():
			return
		}
		delay := minFirstRetry + rand.N(maxFirstRetry-minFirstRetry)
		for next := afterAnswer; ; next = min(time.Duration(float64(next)*delayFactor), maxDelay) {
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return
			}
			if m.answers(ctx, conn) {
				break
			}
			delay = time.Duration(float64(next) * (1 + delayJitter*(2*rand.Float64()-1)))
			m.unanswered(next)
		}
		m.gate.open()
		m.answered()
	}
}

// answers says whether kas itself answers.
func (m *monitor) answers(ctx context.Context, conn grpc.ClientConnInterface) bool {
	ctx, cancel := context.WithTimeout(ctx, minConnectTimeout)
	defer cancel()
	err := conn.Invoke(ctx, probeMethod, &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// unanswered tells once that something else answers.
func (m *monitor) unanswered(next time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused || !m.up {
		return
	}
	m.refused = true
	m.attempts.WithLabelValues("failure").Inc()
	m.tell(Event{Change: AttemptFailed, Reason: m.gate.why(), NextAttempt: next})
}

// answered tells that kas is there again.
func (m *monitor) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused && m.up {
		m.tell(Event{Change: Connected})
	}
	m.refused = false
}
