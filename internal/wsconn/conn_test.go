package wsconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestConn_BytesBothWays(t *testing.T) {
	client, server := pair(t)
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(i * 7)
	}
	var wg sync.WaitGroup
	for _, ends := range [][2]*Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			for part := data; len(part) > 0; {
				n, err := ends[0].Write(part[:min(len(part), 70_001)])
				if err != nil {
					t.Error(err)
					return
				}
				part = part[n:]
			}
		})
		wg.Go(func() {
			got := make([]byte, len(data))
			if _, err := io.ReadFull(ends[1], got); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got, data) {
				t.Error("bytes changed on the way")
			}
		})
	}
	wg.Wait()
}

func TestConn_WriteIsOneBinaryFrame(t *testing.T) {
	m := startMux(t, nil)
	peer := rawUpgrade(t, muxAddr(m))
	server := accept(t, m)
	for _, size := range []int{1, 125, 126, 4096, 32 << 10, 65536} {
		want := bytes.Repeat([]byte{'x'}, size)
		if n, err := server.Write(want); n != size || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		first, payload := peer.read()
		if first != 0x82 || !bytes.Equal(payload, want) {
			t.Fatalf("size %d: frame %#x with %d bytes, want one final binary frame", size, first, len(payload))
		}
	}
	if n, err := server.Write(nil); n != 0 || err != nil {
		t.Fatalf("empty write: %d, %v", n, err)
	}
}

// The client's writes of 32 KiB, which gRPC makes, must not be fragmented either.
func TestConn_ClientWriteIsOneFrame(t *testing.T) {
	heads := make(chan []byte, 1)
	addr := serving(t, func(conn net.Conn, r *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "+acceptKey(r)+"\r\n\r\n")
		frame := make([]byte, 4+4+32<<10)
		_, _ = io.ReadFull(conn, frame)
		heads <- frame[:4]
	})
	client, err := (&Dialer{}).Dial(t.Context(), urlOf("ws", addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write(make([]byte, 32<<10)); err != nil {
		t.Fatal(err)
	}
	if head := <-heads; head[0] != 0x82 || head[1] != 0x80|126 || head[2] != 0x80 || head[3] != 0 {
		t.Fatalf("frame header %x", head)
	}
}

func TestConn_ReadAcrossFragmentsPingsAndEmptyMessages(t *testing.T) {
	m := startMux(t, nil)
	peer := rawUpgrade(t, muxAddr(m))
	server := accept(t, m)
	peer.frame(0x02, []byte("ab")) // binary, more follows
	peer.frame(0x89, []byte("ping!"))
	peer.frame(0x80, []byte("cd")) // continuation, final
	peer.frame(0x82, nil)
	peer.frame(0x82, []byte("ef"))
	got := make([]byte, 6)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "abcdef" {
		t.Fatalf("%q, %v", got, err)
	}
	if first, payload := peer.read(); first != 0x8a || string(payload) != "ping!" {
		t.Fatalf("answer to ping: %#x %q", first, payload)
	}
}

func TestConn_PeerClosesInOrder(t *testing.T) {
	for name, payload := range map[string][]byte{"1000": {0x03, 0xe8}, "1001": {0x03, 0xe9, 'b', 'y', 'e'}} {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, nil)
			peer := rawUpgrade(t, muxAddr(m))
			server := accept(t, m)
			peer.frame(0x88, payload)
			for range 2 {
				if _, err := server.Read(make([]byte, 1)); err != io.EOF {
					t.Fatalf("got %v, want io.EOF", err)
				}
			}
			if first, echo := peer.read(); first != 0x88 || !bytes.Equal(echo, payload[:2]) {
				t.Fatalf("echo %#x %x", first, echo)
			}
		})
	}
}

func TestConn_PeerBreaksTheProtocol(t *testing.T) {
	tests := map[string]struct {
		send   func(p *rawPeer)
		code   int
		reason string
	}{
		"text message": {func(p *rawPeer) { p.frame(0x81, []byte("hi")) }, 1003, "only binary messages are expected"},
		"text message then more": {func(p *rawPeer) {
			p.frame(0x81, []byte("hi"))
			p.frame(0x82, make([]byte, 100_000))
		}, 1003, "only binary messages are expected"},
		"too long":              {func(p *rawPeer) { p.write(frameHeader(0x82, maxMessage+1)) }, 1009, ""},
		"too long in fragments": {func(p *rawPeer) { p.frame(0x02, make([]byte, 1000)); p.write(frameHeader(0x80, maxMessage)) }, 1009, ""},
		"length of 63 bits":     {func(p *rawPeer) { p.write(frameHeader(0x82, 1<<63-1)) }, 1009, ""},
		"length of 64 bits":     {func(p *rawPeer) { p.write(frameHeader(0x82, 1<<64-1)) }, 1009, ""},
		"overflow in fragments": {func(p *rawPeer) { p.frame(0x02, make([]byte, 1000)); p.write(frameHeader(0x80, 1<<63-10)) }, 1009, ""},
		"fragmented ping":       {func(p *rawPeer) { p.frame(0x09, nil) }, 1002, "FIN not set on control"},
		"long ping":             {func(p *rawPeer) { p.frame(0x89, make([]byte, 126)) }, 1002, "len > 125 for control"},
		"compressed":            {func(p *rawPeer) { p.frame(0xc2, []byte("x")) }, 1002, "RSV1 set"},
		"not masked":            {func(p *rawPeer) { p.write([]byte{0x82, 1, 'x'}) }, 1002, "bad MASK"},
		"bad opcode":            {func(p *rawPeer) { p.frame(0x83, nil) }, 1002, "bad opcode 3"},
		"stray continuation":    {func(p *rawPeer) { p.frame(0x80, []byte("x")) }, 1002, "continuation after FIN"},
		"reserved close code":   {func(p *rawPeer) { p.frame(0x88, []byte{0x03, 0xed}) }, 1002, "bad close code 1005"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, nil)
			peer := rawUpgrade(t, muxAddr(m))
			server := accept(t, m)
			test.send(peer)
			_, err := io.Copy(io.Discard, server)
			if err == nil {
				t.Fatalf("got %v, want an error", err)
			}
			if _, again := server.Read(make([]byte, 1)); !errors.Is(again, err) {
				t.Errorf("second read: %v, first %v", again, err)
			}
			server.Close()
			peer.wantClose(test.code, test.reason)
		})
	}
}

func TestConn_LargestMessage(t *testing.T) {
	m := startMux(t, nil)
	peer := rawUpgrade(t, muxAddr(m))
	server := accept(t, m)
	go func() {
		_, _ = peer.conn.Write(frameHeader(0x82, maxMessage))
		_, _ = peer.conn.Write(make([]byte, maxMessage))
	}()
	if n, err := io.CopyN(io.Discard, server, maxMessage); err != nil {
		t.Fatalf("%d bytes, then %v", n, err)
	}
}

func TestConn_ConnectionCut(t *testing.T) {
	tests := map[string][]byte{
		"between frames":    nil,
		"in a frame header": {0x82},
		"in a payload":      {0x82, 0x85, 0, 0, 0, 0, 'a', 'b'},
	}
	for name, sent := range tests {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, nil)
			peer := rawUpgrade(t, muxAddr(m))
			server := accept(t, m)
			peer.write(sent)
			peer.conn.Close()
			_, err := io.Copy(io.Discard, server)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("got %v, want an unexpected EOF", err)
			}
		})
	}
}

func TestConn_CloseSends1000(t *testing.T) {
	m := startMux(t, nil)
	peer := rawUpgrade(t, muxAddr(m))
	server := accept(t, m)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { server.Close() })
	}
	wg.Wait()
	peer.wantClose(1000, "")
	if _, err := peer.br.ReadByte(); err == nil {
		t.Error("something follows the close frame")
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

func TestConn_CloseFreesReaderAndWriter(t *testing.T) {
	_, server := pair(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
	wg.Go(func() { // fills the buffers of the kernel: nobody reads
		for {
			if _, err := server.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	time.AfterFunc(100*time.Millisecond, func() { server.Close() })
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(testWait):
		t.Fatal("Close does not free them")
	}
}

func TestConn_Deadlines(t *testing.T) {
	_, server := pair(t)
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := server.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	// A deadline set while a write is under way holds for it.
	time.AfterFunc(50*time.Millisecond, func() { _ = server.SetWriteDeadline(time.Now()) })
	for err = nil; err == nil; {
		_, err = server.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
}

func TestConn_DeadlineLifted(t *testing.T) {
	client, server := pair(t)
	if err := errors.Join(server.SetDeadline(time.Now().Add(time.Hour)), server.SetDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// Small frames must leave at once, on both ends.
func TestConn_NoDelay(t *testing.T) {
	client, server := pair(t)
	for name, c := range map[string]*Conn{"client": client, "server": server} {
		raw, err := c.link.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var value int
		var optErr error
		if err := raw.Control(func(fd uintptr) {
			value, optErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
		}); err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		if value == 0 {
			t.Errorf("%s: TCP_NODELAY is off", name)
		}
	}
}

func TestLink_EarliestDeadlineWins(t *testing.T) {
	now := time.Now()
	for _, test := range []struct{ a, b, want time.Time }{
		{time.Time{}, time.Time{}, time.Time{}},
		{now, time.Time{}, now},
		{time.Time{}, now, now},
		{now, now.Add(1), now},
		{now.Add(1), now, now},
	} {
		if got := earliest(test.a, test.b); !got.Equal(test.want) {
			t.Errorf("earliest(%v, %v) = %v", test.a, test.b, got)
		}
	}
}

func BenchmarkConn_Throughput(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	m, err := NewMux(MuxConfig{Listener: listener, WebSocket: true})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	go func() {
		conn, err := m.GRPCListener().Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}()
	client, err := (&Dialer{}).Dial(ctx, urlOf("ws", listener.Addr().String()))
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, writeBuffer)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	cancel()
	<-done
}
