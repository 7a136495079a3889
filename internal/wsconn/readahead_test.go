package wsconn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// tcpPair is a connection to read ahead, and its other end.
func tcpPair(tb testing.TB) (*readAhead, *net.TCPConn) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	far, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	near, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		far.Close()
		near.Close()
	})
	if err := near.SetDeadline(time.Now().Add(testWait)); err != nil {
		tb.Fatal(err)
	}
	return newReadAhead(near), far.(*net.TCPConn)
}

func TestReadAhead_HoldsABufferOnlyWhileItHasBytes(t *testing.T) {
	r, far := tcpPair(t)
	if _, err := far.Write([]byte("some bytes")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if n, err := r.Read(p); string(p[:n]) != "some" || err != nil {
		t.Fatalf("%q, %v", p[:n], err)
	}
	if r.buf == nil || string(r.rest) != " bytes" {
		t.Errorf("not read ahead: %q", r.rest)
	}
	if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if r.buf != nil {
		t.Error("all is read, and the buffer still held")
	}
	if err := r.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) || r.buf != nil {
		t.Errorf("nothing to read: %v, buffer held: %t", err, r.buf != nil)
	}
}

func TestReadAhead_BytesStayInOrder(t *testing.T) {
	r, far := tcpPair(t)
	want := make([]byte, 5*readAheadSize+17)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	go func() {
		_, _ = far.Write(want)
		_ = far.Close()
	}()
	var got []byte
	for i := 0; ; i++ {
		// Small pieces, sometimes one that is too large to be buffered.
		p := make([]byte, []int{1, 9, 1000, readAheadSize, 0}[i%5])
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, want %d, or they changed", len(got), len(want))
	}
}

func TestReadAhead_Ends(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(near net.Conn, far *net.TCPConn) error
		want error
	}{
		"closed by the peer": {func(_ net.Conn, far *net.TCPConn) error { return far.Close() }, io.EOF},
		"reset by the peer": {func(_ net.Conn, far *net.TCPConn) error {
			return errors.Join(far.SetLinger(0), far.Close())
		}, syscall.ECONNRESET},
		"closed here": {func(near net.Conn, _ *net.TCPConn) error { return near.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			r, far := tcpPair(t)
			ended := make(chan error, 1)
			go func() {
				_, err := r.Read(make([]byte, 10))
				ended <- err
			}()
			if err := tc.end(r.conn, far); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, tc.want) || r.buf != nil {
				t.Errorf("got %v, want %v; buffer held: %t", err, tc.want, r.buf != nil)
			}
		})
	}
}

// The bytes on the socket are not those of the TLS connection.
func TestReadAhead_NotBelowTLS(t *testing.T) {
	r, _ := tcpPair(t)
	if newReadAhead(tls.Server(r.conn, &tls.Config{})) != nil {
		t.Error("a TLS connection is read ahead")
	}
}
