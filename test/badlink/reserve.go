package badlink

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// reservation keeps a port for a link while nothing listens on it: a socket that is bound and does not listen, beside which another one of
// this user may. Who dials meanwhile is refused, and nobody else gets the port.
type reservation struct {
	fd   int
	addr string
}

// reserve takes a port of an IP address, any free one for port 0.
func reserve(host string, port int) (*reservation, error) {
	ip := net.ParseIP(host)
	if ip == nil {
		return nil, fmt.Errorf("badlink: %q is no IP address", host)
	}
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())})
	if v4 := ip.To4(); v4 != nil {
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte(v4)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &reservation{fd: fd}
	if err := r.bind(host, sockaddr); err != nil {
		r.release()
		return nil, err
	}
	return r, nil
}

func (r *reservation) bind(host string, sockaddr unix.Sockaddr) error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(r.fd, sockaddr); err != nil {
		return fmt.Errorf("badlink: %w", os.NewSyscallError("bind", err))
	}
	bound, err := unix.Getsockname(r.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	port := 0
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		port = a.Port
	case *unix.SockaddrInet6:
		port = a.Port
	}
	r.addr = net.JoinHostPort(host, fmt.Sprint(port))
	return nil
}

// listen opens a listener beside the reservation.
func (r *reservation) listen() (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); controlErr != nil {
			return controlErr
		}
		return os.NewSyscallError("setsockopt", err)
	}}
	return config.Listen(context.Background(), "tcp", r.addr)
}

func (r *reservation) release() { _ = unix.Close(r.fd) }
