package httpgrpc

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/internal/frame"
)

// maxInformational bounds the 1xx headers before the response, which are skipped.
const maxInformational = 5

// response reads the frames of the response in their only legal order: header, data, trailer.
func (e *requesterExchange) response() error {
	if err := e.responseHeader(); err != nil {
		return err
	}
	for {
		m, err := e.next()
		if err != nil {
			return e.unlessWhole(err)
		}
		switch {
		case m.member == frame.HTTPTrailer:
			m.data.Free()
			return e.responseEnd()
		case m.member == frame.HTTPData && e.res.Status != http.StatusSwitchingProtocols:
			if err := e.responseData(m); err != nil {
				return err
			}
		default:
			m.data.Free()
			return e.broken("frame %d inside a response with status %d", m.member, e.res.Status)
		}
	}
}

// next returns the next frame. Before it waits, what was written goes out: a lone byte is never delayed, a burst is one write.
func (e *requesterExchange) next() (inbound, error) {
	if e.in == nil {
		if !e.unflushed {
			return e.checked(e.receiveOne(), true)
		}
		if e.headOfShort() {
			return e.receiveSoon()
		}
		e.listen()
		// What came together with the frame before is a moment away: with it, the answer is one write instead of two.
		runtime.Gosched()
	}
	select {
	case m, ok := <-e.in:
		return e.checked(m, ok)
	default:
	}
	if err := e.flush(); err != nil {
		return inbound{}, err
	}
	select {
	case m, ok := <-e.in:
		return e.checked(m, ok)
	case <-e.failed:
		return inbound{}, e.failure()
	}
}

// headOfShort says that what was written and is still here is the head of an answer whose body is short. Agents hold such a head until
// they have the body, too.
func (e *requesterExchange) headOfShort() bool {
	return e.declared > 0 && e.declared <= maxFrame && e.res.Received == 0 && !e.bodyless
}

// receiveSoon receives what comes after a head, which goes out alone when that takes longer than holdTime. A timer that is stopped in
// nearly all cases costs less than a goroutine that receives meanwhile.
func (e *requesterExchange) receiveSoon() (inbound, error) {
	e.late.over = false
	timer := time.AfterFunc(holdTime, e.flushLate)
	m := e.receiveOne()
	timer.Stop()
	e.late.mu.Lock()
	e.late.over = true
	err := e.late.err
	e.late.mu.Unlock()
	if err != nil {
		m.data.Free()
		return inbound{}, err
	}
	return e.checked(m, true)
}

// lateFlush is a flush by a timer, while the goroutine of Do receives.
type lateFlush struct {
	mu sync.Mutex
	// mu guards over: nobody waits for the flush any more, and w is the goroutine's again; and err, how the flush went.
	over bool
	err  error
}

func (e *requesterExchange) flushLate() {
	e.late.mu.Lock()
	defer e.late.mu.Unlock()
	if e.late.over {
		return
	}
	if e.late.err = e.flush(); e.late.err != nil {
		e.abort()
	}
}

// flush sends what was written and is still here.
func (e *requesterExchange) flush() error {
	if !e.unflushed {
		return nil
	}
	e.unflushed = false
	if err := e.rc.Flush(); err != nil {
		return &Error{Stage: StageWrite, Hop: hopClient, Err: err}
	}
	return nil
}

// checked turns the end of the call into an error: it must not come before the response trailer. A failure of the sending side
// is the better explanation of it.
func (e *requesterExchange) checked(m inbound, ok bool) (inbound, error) {
	if ok && m.err == nil {
		return m, nil
	}
	err := m.err
	if !ok {
		err = io.EOF
	}
	why := e.failure()
	switch {
	case why == nil:
		return inbound{}, e.streamError(StageRead, err)
	case why.Hop == hopClient, errors.Is(err, io.EOF), e.gaveUp.Load():
		return inbound{}, why
	default:
		return inbound{}, e.streamError(why.Stage, err)
	}
}

func (e *requesterExchange) broken(format string, args ...any) error {
	return e.streamError(StageRead, protocolError(format, args...))
}

// responseHeader reads the header and writes it to the client, unless it is that of an upgrade: that waits for the trailer.
func (e *requesterExchange) responseHeader() error {
	for range maxInformational {
		m, err := e.next()
		if err != nil {
			return err
		}
		if m.member != frame.HTTPHeader {
			m.data.Free()
			return e.broken("frame %d instead of a response header", m.member)
		}
		head, err := readHead(m.data)
		m.data.Free()
		if err != nil {
			return e.broken("%v", err)
		}
		status := head.status
		if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
			continue
		}
		if status < 100 || status > 999 {
			return e.broken("status %d", status)
		}
		if status == http.StatusSwitchingProtocols && !e.upgrade {
			return e.broken("an upgrade that nobody asked for")
		}
		return e.writeHeader(status, head.header)
	}
	return e.broken("too many informational responses")
}

func (e *requesterExchange) writeHeader(status int, peer http.Header) error {
	length, err := contentLength(peer)
	if err != nil {
		return e.broken("%v", err)
	}
	e.declared = length
	e.bodyless = e.x.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	e.res.Status = status
	if status == http.StatusSwitchingProtocols {
		e.switching = peer
		return nil
	}
	h := e.w.Header()
	e.x.Respond(status, peer)
	if _, ok := h["Content-Type"]; !ok {
		// The type of a body is the cluster's to say, never guessed from its bytes.
		h["Content-Type"] = nil
	}
	if !e.bodyEnd.Load() && !e.x.Multiplexed {
		h.Set(headerConnection, "close")
	}
	e.w.WriteHeader(status)
	e.res.Committed = true
	e.unflushed = true
	return e.sendWhole()
}

// contentLength reads the one legal Content-Length; -1 without. Two of them, or one that is no number, could make two readers
// of the connection disagree about where the response ends.
func contentLength(h http.Header) (int64, error) {
	values := h["Content-Length"]
	if len(values) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || len(values) > 1 {
		return 0, errors.New("invalid Content-Length")
	}
	return int64(n), nil
}

func (e *requesterExchange) responseData(m inbound) error {
	payload, err := frame.Unwrap(m.data, frame.HTTPData)
	if err != nil {
		return e.broken("%v", err)
	}
	defer payload.Free()
	n := int64(payload.Len())
	if n == 0 {
		return nil
	}
	if e.bodyless {
		return e.broken("a body with status %d to %s", e.res.Status, e.x.Method)
	}
	if e.declared >= 0 && e.res.Received+n > e.declared {
		return e.broken("more body than its Content-Length")
	}
	e.unflushed = true
	for _, b := range payload {
		if _, err := e.w.Write(b.ReadOnlyData()); err != nil {
			return &Error{Stage: StageWrite, Hop: hopClient, Err: err}
		}
	}
	e.res.Received += n
	return e.sendWhole()
}

// sendWhole flushes an answer that is complete for the client.
func (e *requesterExchange) sendWhole() error {
	if e.x.Multiplexed || !e.bodyless && e.declared != e.res.Received {
		return nil
	}
	err := e.flush()
	e.whole = err == nil
	return err
}

// unlessWhole is err, unless it says no more than that the client has left with all of its answer, or that the peer was lost after it.
func (e *requesterExchange) unlessWhole(err error) error {
	var failure *Error
	if e.whole && errors.As(err, &failure) && (failure.Hop == hopClient || errors.Is(err, ErrLost)) {
		e.abandoned = true
		return nil
	}
	return err
}

// responseEnd ends a complete response. What the peer says after its trailer does not matter to the client any more.
func (e *requesterExchange) responseEnd() error {
	if e.res.Status == http.StatusSwitchingProtocols {
		return e.pipe()
	}
	if e.declared >= 0 && !e.bodyless && e.res.Received != e.declared {
		return e.broken("less body than its Content-Length")
	}
	if e.upgrade && e.awaitBody() {
		// A refused upgrade: the peer waits for this before it ends the call.
		e.closeSend()
	}
	return nil
}
