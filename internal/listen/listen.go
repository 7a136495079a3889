// Package listen opens the listeners of both daemons from the four settings they all share: network, address, certificate
// and key. Certificates that are renewed on disk are used without a restart.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Config describes a listener.
type Config struct {
	// Network is tcp, tcp4, tcp6 or unix.
	Network string
	// Address is host:port, or the path of a socket.
	Address string
	// CertificateFile and KeyFile are PEM files; both or neither. With neither the listener speaks no TLS.
	CertificateFile, KeyFile string
	// ALPN are the protocols offered in the TLS handshake, best first.
	ALPN []string
	// Log hears of certificates that could not be reloaded, and of connections that wait for file descriptors. Without TLS it may be nil;
	// who accepts then says the latter.
	Log *zap.Logger
	// Wrap is applied to every connection that is accepted, beneath TLS. It may be nil.
	Wrap func(net.Conn) net.Conn
}

// TLS says whether the listener encrypts.
func (c Config) TLS() bool { return c.CertificateFile != "" || c.KeyFile != "" }

// Open opens a listener. A unix socket that a dead process left behind is replaced; one that is in use is an error.
func Open(ctx context.Context, cfg Config) (net.Listener, error) {
	var tlsConfig *tls.Config
	if cfg.TLS() {
		var err error
		if tlsConfig, err = ServerTLS(cfg.CertificateFile, cfg.KeyFile, cfg.ALPN, cfg.Log); err != nil {
			return nil, err
		}
	}
	switch cfg.Network {
	case "tcp", "tcp4", "tcp6":
	case "unix":
		if err := removeStale(ctx, cfg.Address); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("listen on %s: network %q is none of tcp, tcp4, tcp6, unix", cfg.Address, cfg.Network)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, cfg.Network, cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("open listener: %w", err)
	}
	if cfg.Log != nil {
		ln = &frugal{Listener: ln, log: cfg.Log, now: time.Now}
	}
	if cfg.Wrap != nil {
		ln = &wrapping{Listener: ln, wrap: cfg.Wrap}
	}
	if tlsConfig != nil {
		ln = tls.NewListener(ln, tlsConfig)
	}
	return ln, nil
}

// wrapping wraps the connections that it accepts.
type wrapping struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

// Accept accepts a connection.
func (w *wrapping) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return w.wrap(conn), nil
}

// removeStale removes a socket nobody listens on. Anything else at that path is left alone: it may be a file of value.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("listen on %s: the path exists and is not a socket", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("listen on %s: another process uses the socket", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if err = os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	return nil
}
