package badlink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestLink_WithoutFaults_CarriesEverythingAndBothHalves(t *testing.T) {
	for name, conditions := range map[string]Conditions{"perfect": {}, "delayed": {RTT: 20 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) { carriesEverything(t, conditions) })
	}
}

// carriesEverything sends bytes in writes of all sizes and wants them back, and then the end.
func carriesEverything(t *testing.T, conditions Conditions) {
	t.Helper()
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c) // until the client has ended its half
		if err == nil {
			_, _ = c.Write(got)
		}
	}))})
	set(t, l, conditions)
	c := dial(t, l)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	for rest, size := sent, 1; len(rest) > 0; size = size*3/2 + 1 {
		n, err := c.Write(rest[:min(size, len(rest))])
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back, or others; %v", len(got), len(sent), err)
	}
	eventually(t, "the connection is gone", func() bool { return len(l.Open()) == 0 })
	if up, down := l.Bytes(ToServer), l.Bytes(ToClient); up != int64(len(sent)) || down != up {
		t.Errorf("%d bytes went up and %d down, want %d", up, down, len(sent))
	}
	if got := l.Accepted(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

func TestLink_Delay_IsARoundTripAndLeavesTheBandwidth(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, echo))})
	const rtt = 200 * time.Millisecond
	set(t, l, Conditions{RTT: rtt})
	c := dial(t, l)
	started := time.Now()
	say(t, c, "ping")
	if took := time.Since(started); took < rtt {
		t.Errorf("a round trip took %s, want %s at least", took, rtt)
	}
	// What a link carries that waits for every chunk: 32 KiB per half a round trip, here 0.3 MB/s and 50 s.
	sent := make([]byte, 16<<20)
	started = time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		done <- err
	}()
	if _, err := io.ReadFull(c, make([]byte, len(sent))); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < rtt || took > 10*time.Second {
		t.Errorf("16 MiB there and back took %s", took)
	}
}

func TestLink_Bandwidth_IsSharedByConnections(t *testing.T) {
	payload := make([]byte, 64<<10)
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) { _, _ = c.Write(payload) }))})
	set(t, l, Conditions{BytesPerSecond: 128 << 10})
	started := time.Now()
	first, second := dial(t, l), dial(t, l)
	for _, c := range []net.Conn{first, second} {
		if got, err := hears(c); err != nil || len(got) != len(payload) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if took := time.Since(started); took < 900*time.Millisecond {
		t.Errorf("2 times 64 KiB took %s at 128 KiB/s, want a second", took)
	}
}

func TestLink_Blackhole_NobodyIsToldEver(t *testing.T) {
	seen := make(chan error, 10)
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		seen <- err
	}))})
	c, quiet := dial(t, l), dial(t, l)
	say(t, c, "before")
	say(t, quiet, "before")
	set(t, l, Blackhole)
	if _, err := io.WriteString(c, "lost"); err != nil {
		t.Fatal(err)
	}
	silence(t, c)
	late := dial(t, l)
	if _, err := io.WriteString(late, "nobody there"); err != nil {
		t.Fatal(err)
	}
	silence(t, late)
	eventually(t, "the loss is counted", func() bool { return len(l.Open()) == 3 && l.Bytes(ToServer) == 12 })

	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	// What lost nothing goes on; what lost something never does, and its end reaches nobody.
	say(t, quiet, "after")
	if _, err := io.WriteString(c, "still lost"); err != nil {
		t.Fatal(err)
	}
	silence(t, c)
	c.Close()
	late.Close()
	say(t, dial(t, l), "new")
	select {
	case err := <-seen:
		t.Errorf("the server was told that a connection ended: %v", err)
	default:
	}
}

func TestLink_HalfOpen_OneDirectionWorks(t *testing.T) {
	got := make(chan string, 1)
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) {
		buffer := make([]byte, 5)
		for {
			if _, err := io.ReadFull(c, buffer); err != nil {
				return
			}
			got <- string(buffer)
			if _, err := c.Write(buffer); err != nil {
				return
			}
		}
	}))})
	c := dial(t, l)
	say(t, c, "hello")
	<-got
	set(t, l, Conditions{DropToClient: true})
	if _, err := io.WriteString(c, "still"); err != nil {
		t.Fatal(err)
	}
	if word := <-got; word != "still" {
		t.Errorf("the server got %q", word)
	}
	silence(t, c)
}

func TestLink_Refuse_AndComesBackOnTheSamePort(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, echo))})
	before := l.Addr()
	c := dial(t, l)
	say(t, c, "x")
	set(t, l, Conditions{Refuse: true})
	for range 20 {
		if late, err := net.Dial("tcp", l.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			if err == nil {
				late.Close()
			}
			t.Fatalf("dial: %v, want that it is refused", err)
		}
	}
	say(t, c, "what is open stays")
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	if l.Addr() != before {
		t.Errorf("address %s became %s", before, l.Addr())
	}
	say(t, dial(t, l), "y")
}

func TestLink_Reset_BothEndsAtOnce(t *testing.T) {
	ended := make(chan error, 1)
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ended <- err
	}))})
	c := dial(t, l)
	say(t, c, "x")
	l.Reset()
	if _, err := hears(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's connection ended with %v", err)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server's connection ended with %v", err)
	}
	say(t, dial(t, l), "the next one works")
}

func TestLink_IdleTimeout_ForgetsInSilence(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, echo))})
	c := dial(t, l)
	say(t, c, "x")
	set(t, l, Conditions{IdleTimeout: 100 * time.Millisecond})
	eventually(t, "the connection is forgotten", func() bool { open := l.Open(); return len(open) == 1 && open[0].Silent })
	if _, err := io.WriteString(c, "lost"); err != nil {
		t.Fatal(err)
	}
	silence(t, c)
	set(t, l, Conditions{IdleTimeout: 2 * time.Second})
	busy := dial(t, l)
	for range 25 {
		say(t, busy, "not idle")
		time.Sleep(100 * time.Millisecond) // the pace of a busy connection, not a wait
	}
}

func TestLink_ServerGone_ClientIsReset(t *testing.T) {
	l := through(t, Config{Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") }})
	c, err := net.Dial("tcp", l.Addr())
	if err == nil {
		defer c.Close()
		_, err = hears(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
}

func TestLink_SlowReader_HoldsUpTheSenderAndNobodyElse(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) {
		buffer := make([]byte, 1<<20)
		for {
			if _, err := c.Write(buffer); err != nil {
				return
			}
		}
	}))})
	slow := dial(t, l)
	eventually(t, "nothing moves any more", func() bool {
		before := l.Bytes(ToClient)
		time.Sleep(50 * time.Millisecond) // the time in which something could move
		return before > 0 && before == l.Bytes(ToClient)
	})
	other := dial(t, l)
	if _, err := io.CopyN(io.Discard, other, 8<<20); err != nil {
		t.Errorf("the other reader: %v", err)
	}
	if _, err := io.CopyN(io.Discard, slow, 8<<20); err != nil {
		t.Errorf("the slow reader: %v", err)
	}
}

func TestListen_BadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no server": {},
		"name":      {Dial: To("127.0.0.1:1"), Host: "localhost"},
		"foreign":   {Dial: To("127.0.0.1:1"), Host: "192.0.2.1"},
	} {
		if l, err := Listen(cfg); err == nil {
			l.Close()
			t.Errorf("%s: no error", name)
		}
	}
	l := through(t, Config{Dial: To(serve(t, echo))})
	if _, err := l.Cut(ToServer, Headers, 0); err == nil {
		t.Error("a place in a protocol that the link does not parse")
	}
	l.Close()
	if err := l.Heal(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("change of a closed link: %v", err)
	}
}
