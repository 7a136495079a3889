package httpgrpc

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// prompt is a connection that can be asked for what it has already. Clients write an upgraded connection in many small pieces, the head of
// a frame apart from its contents, and each is a TLS record; who waits for one at a time passes each on as a message of its own. The
// switch is beneath TLS, which takes its refusal as a timeout and goes on with the half of a record that it may have.
type prompt struct {
	stream
	raw syscall.RawConn
	// try is prompt.tryRead, kept because making it anew would be an allocation per read.
	try func(fd uintptr) bool

	// What follows belongs to the one goroutine that reads. impatient: do not wait. drained: the latest read has left nothing.
	impatient, drained bool
	// to is what tryRead fills with n bytes; err says what it has met.
	to  []byte
	n   int
	err error
}

// stream is a connection of a Unix-like system: TCP, or a Unix socket.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Prompt returns a client's connection as upgrades are best served on, beneath TLS if there is any. Other connections than those of
// sockets are returned as they are.
func Prompt(conn net.Conn) net.Conn {
	s, ok := conn.(stream)
	if !ok || !canTryRead {
		return conn
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return conn
	}
	p := &prompt{stream: s, raw: raw}
	p.try = p.tryRead
	return p
}

// promptOf finds the switch of a connection; nil if there is none.
func promptOf(conn net.Conn) *prompt {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	p, _ := conn.(*prompt)
	return p
}

// errNotYet is what an impatient read says when there is nothing to read.
var errNotYet net.Error = notYet{errors.New("nothing to read yet")}

type notYet struct{ error }

// Timeout and Temporary tell TLS that the connection can be read on.
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

// Read implements io.Reader.
func (p *prompt) Read(b []byte) (int, error) {
	if !p.impatient {
		n, err := p.stream.Read(b)
		p.drained = n < len(b)
		return n, err
	}
	if p.drained {
		return 0, errNotYet
	}
	p.to, p.n, p.err = b, 0, nil
	err := p.raw.Read(p.try)
	p.to, p.drained = nil, p.n < len(b)
	if err == nil {
		err = p.err
	}
	return p.n, err
}
