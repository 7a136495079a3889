package badlink

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func mustCut(t *testing.T, l *Link, d Direction, place Place, skip int) <-chan struct{} {
	t.Helper()
	done, err := l.Cut(d, place, skip)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func awaitCut(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatal("the cut is not made")
	}
}

func TestCut_AtAByte_ReceiverHasWhatWasBefore(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "0123456789"); _, _ = io.Copy(io.Discard, c) }))})
	done := mustCut(t, l, ToClient, AnyByte, 6)
	if got, err := hears(dial(t, l)); got != "0123456" || err != nil {
		t.Errorf("the client got %q, %v", got, err)
	}
	awaitCut(t, done)
	c := dial(t, l)
	got := make([]byte, 10)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Errorf("the cut came twice: %q, %v", got, err)
	}
}

// frames is an HTTP/2 connection as one side sends it, and where its frames begin.
func frames(t *testing.T, way Direction) (stream []byte, headers, data int) {
	t.Helper()
	var b bytes.Buffer
	if way == ToServer {
		b.WriteString(http2.ClientPreface)
	}
	f := http2.NewFramer(&b, nil)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.WriteSettings())
	headers = b.Len()
	must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 10), EndHeaders: true}))
	data = b.Len()
	message := append([]byte{0, 0, 0, 0, 20}, make([]byte, 20)...)
	must(f.WriteData(1, false, message[:3])) // a message in two frames
	must(f.WriteData(1, true, message[3:]))
	return b.Bytes(), headers, data
}

// wrapped puts a stream into WebSocket frames of some size, behind the header of an upgrade.
func wrapped(stream []byte, way Direction, size int) []byte {
	var b bytes.Buffer
	if way == ToServer {
		b.WriteString("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
	} else {
		b.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\n")
	}
	for len(stream) > 0 {
		part := stream[:min(size, len(stream))]
		stream = stream[len(part):]
		mask := []byte{0, 0, 0, 0}
		bit := byte(0)
		if way == ToServer {
			mask, bit = []byte{1, 2, 3, 4}, 0x80
		}
		if len(part) < 126 {
			b.Write([]byte{0x82, bit | byte(len(part))})
		} else {
			b.Write([]byte{0x82, bit | 126, byte(len(part) >> 8), byte(len(part))})
		}
		if bit != 0 {
			b.Write(mask)
		}
		for i, c := range part {
			b.WriteByte(c ^ mask[i%4])
		}
	}
	return b.Bytes()
}

func places(stream []byte, way Direction) map[Place][]int {
	t := tracker{way: way}
	found := map[Place][]int{}
	for i, b := range stream {
		if at := t.next(b); at != 0 {
			found[at] = append(found[at], i+1)
		}
	}
	return found
}

func TestTracker_FindsPlacesInHTTP2(t *testing.T) {
	for _, way := range []Direction{ToServer, ToClient} {
		stream, headers, data := frames(t, way)
		found := places(stream, way)
		if got := found[Headers]; len(got) != 1 || got[0] != headers+9+5 {
			t.Errorf("direction %d: HEADERS at %v, want %d", way, got, headers+9+5)
		}
		// Amid 25 bytes of a message, of which the first frame has 3.
		if got := found[Message]; len(got) != 1 || got[0] != data+9+3+9+12 {
			t.Errorf("direction %d: message at %v, want %d", way, got, data+9+3+9+12)
		}
		if got := found[WebSocketHeader]; got != nil {
			t.Errorf("direction %d: WebSocket at %v", way, got)
		}
	}
}

func TestTracker_FindsThemInsideOfWebSocketFramesOfAnySize(t *testing.T) {
	for _, way := range []Direction{ToServer, ToClient} {
		stream, _, _ := frames(t, way)
		for _, size := range []int{1, 2, 7, 40, 1000} {
			found := places(wrapped(stream, way, size), way)
			if len(found[Headers]) != 1 || len(found[Message]) != 1 {
				t.Errorf("direction %d, frames of %d bytes: %v", way, size, found)
			}
			if got, want := len(found[WebSocketHeader]), (len(stream)+size-1)/size; got != want {
				t.Errorf("direction %d, frames of %d bytes: %d headers, want %d", way, size, got, want)
			}
		}
	}
}

func TestTracker_StrangeProtocolHasNoPlaces(t *testing.T) {
	for _, text := range []string{
		"SSH-2.0-OpenSSH", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("\x00\x00\x08\x01\x04", 20),
		"\x16\x03\x01\x02\x00" + strings.Repeat("\x01", 600),
	} {
		if found := places([]byte(text), ToClient); len(found) != 0 {
			t.Errorf("%q: %v", text[:8], found)
		}
	}
}

func TestCut_InsideAWebSocketHeader(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, message, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, message) != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	l := through(t, Config{Dial: To(server.Listener.Addr().String()), Parse: true})
	c, response, err := websocket.DefaultDialer.Dial("ws://"+l.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	defer c.Close()
	for range 3 {
		if err := c.WriteMessage(websocket.BinaryMessage, []byte("whole")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.ReadMessage(); err != nil || string(got) != "whole" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	before := l.Bytes(ToClient)
	done := mustCut(t, l, ToClient, WebSocketHeader, 0)
	if err := c.WriteMessage(websocket.BinaryMessage, []byte("never answered")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.ReadMessage(); !websocket.IsUnexpectedCloseError(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("message %q, %v", got, err)
	}
	awaitCut(t, done)
	if came := l.Bytes(ToClient) - before; came != 1 {
		t.Errorf("%d bytes came, want one", came)
	}
}

// A real gRPC call, cut in both directions and places: the client is told that it failed, and the next call works.
func TestCut_InsideGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	states := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-served })
	l := through(t, Config{Dial: To(listener.Addr().String()), Parse: true})
	conn, err := grpc.NewClient("passthrough:"+l.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := grpc_health_v1.NewHealthClient(conn)
	long := strings.Repeat("s", 300)
	states.SetServingStatus(long, grpc_health_v1.HealthCheckResponse_SERVING)
	check := func() error {
		_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: long}, grpc.WaitForReady(true))
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		way   Direction
		place Place
	}{{ToServer, Headers}, {ToServer, Message}, {ToClient, Headers}, {ToClient, Message}} {
		done := mustCut(t, l, at.way, at.place, 0)
		// gRPC repeats by itself what the server cannot have seen.
		if err := check(); err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("%v: %v", at, err)
		}
		awaitCut(t, done)
		if err := check(); err != nil {
			t.Errorf("%v: the next call: %v", at, err)
		}
	}
}

func TestCut_SenderIsReset(t *testing.T) {
	l := through(t, Config{Dial: To(serve(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }))})
	c := dial(t, l)
	done := mustCut(t, l, ToServer, AnyByte, 0)
	if _, err := io.WriteString(c, "xx"); err != nil {
		t.Fatal(err)
	}
	awaitCut(t, done)
	if _, err := hears(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the sender's connection ended with %v", err)
	}
}
