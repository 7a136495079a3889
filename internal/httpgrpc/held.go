package httpgrpc

import (
	"sync"
	"time"

	"google.golang.org/grpc/mem"
)

// holdTime is how long a held message waits for the next one. It is long for who has the next one already and short for everybody else.
const holdTime = time.Millisecond

// heldSender holds its first message until the next one is sent or holdTime has passed.
type heldSender struct {
	to Sender
	// timer is nil when the next message does not wait for anybody. A timer for each short answer would wake a thread of a process that
	// has little to do, twice.
	timer *time.Timer

	// mu keeps the timer's Send apart from the others. held is the first message until it is sent; err says how that went.
	mu   sync.Mutex
	held mem.BufferSlice
	err  error
}

// hold returns a Sender that has first to send. Its release has to be called in the end. ready: so will be the next message.
func hold(to Sender, first mem.BufferSlice, ready bool) *heldSender {
	h := &heldSender{to: to, held: first}
	if !ready {
		h.timer = time.AfterFunc(holdTime, func() { _ = h.flush() })
	}
	return h
}

// Send implements Sender.
func (h *heldSender) Send(msg mem.BufferSlice) error {
	if err := h.release(); err != nil {
		msg.Free()
		return err
	}
	return h.to.Send(msg)
}

// release sends what is still held. Afterwards nothing is under way, and the same answer is given again.
func (h *heldSender) release() error {
	if h.timer != nil {
		h.timer.Stop()
	}
	return h.flush()
}

func (h *heldSender) flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		first := h.held
		h.held = nil
		h.err = h.to.Send(first)
	}
	return h.err
}
