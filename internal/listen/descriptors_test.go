package listen

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// exhausted is a listener that fails with one error after the other.
type exhausted struct {
	net.Listener
	errs []error
}

func (e *exhausted) Accept() (net.Conn, error) {
	err := e.errs[0]
	e.errs = e.errs[1:]
	return nil, err
}

func accepting(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
}

func TestAccept_NoDescriptorsLeft(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	now := time.Now()
	e := &exhausted{errs: []error{
		accepting(syscall.ECONNABORTED), net.ErrClosed, accepting(syscall.EMFILE), accepting(syscall.EMFILE), accepting(syscall.ENFILE), accepting(syscall.EMFILE),
	}}
	f := &frugal{Listener: e, log: zap.New(core), now: func() time.Time { return now }}
	for i, want := range []int{0, 0, 1, 1, 1, 2} {
		if i == 5 {
			now = now.Add(complainEvery)
		}
		wanted := e.errs[0]
		if _, err := f.Accept(); !errors.Is(err, wanted) {
			t.Errorf("%v, want %v as it is: servers look at it", err, wanted)
		}
		if logs.Len() != want {
			t.Errorf("after %v there are %d lines, want %d", wanted, logs.Len(), want)
		}
	}
	for _, entry := range logs.All() {
		if limit, ok := entry.ContextMap()["limit"].(uint64); !ok || limit == 0 {
			t.Errorf("the limit is not told: %v", entry.ContextMap())
		}
	}
}
