package listen

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// complainEvery is how often, at most, the log says that there are no descriptors.
const complainEvery = time.Minute

// frugal says clearly that connections cannot be accepted for want of file descriptors. Servers only wait and try again, which is right,
// since other connections will end; but nobody would know why clients wait.
type frugal struct {
	net.Listener
	log *zap.Logger
	now func() time.Time

	mu sync.Mutex
	// mu guards complained: when the log was told last.
	complained time.Time
}

// Accept accepts a connection.
func (f *frugal) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		f.complain(err)
	}
	return conn, err
}

func (f *frugal) complain(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); f.complained.IsZero() || now.Sub(f.complained) >= complainEvery {
		f.complained = now
		f.log.Warn("No file descriptors left: new connections wait until others end", zap.Error(err), zap.Uint64("limit", descriptors()))
	}
}

// descriptors is how many this process may have open, 0 if that is not known.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return limit.Cur
}
