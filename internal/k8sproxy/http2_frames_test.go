package k8sproxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// frames is an HTTP/2 client that says what it is told to.
type frames struct {
	*http2.Framer
	t       *testing.T
	conn    *tls.Conn
	encoder *hpack.Encoder
	block   bytes.Buffer
	// settings are those of kas.
	settings map[http2.SettingID]uint32
}

// frames opens a connection and exchanges settings.
func (l *secureLine) frames() *frames {
	l.t.Helper()
	conn, err := tls.Dial("tcp", l.addr, &tls.Config{RootCAs: l.roots, NextProtos: []string{"h2"}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	f := &frames{Framer: http2.NewFramer(conn, conn), t: l.t, conn: conn, settings: map[http2.SettingID]uint32{}}
	f.encoder = hpack.NewEncoder(&f.block)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, _ = conn.Write([]byte(http2.ClientPreface))
	_ = f.WriteSettings()
	got := await[*http2.SettingsFrame](f)
	_ = got.ForeachSetting(func(s http2.Setting) error {
		f.settings[s.ID] = s.Val
		return nil
	})
	_ = f.WriteSettingsAck()
	return f
}

// await reads until a frame of a kind comes.
func await[F http2.Frame](f *frames) F {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.t.Fatal(err)
		}
		if wanted, ok := frame.(F); ok {
			return wanted
		}
	}
}

func (f *frames) encode(fields ...string) []byte {
	f.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.block.Bytes()
}

// ask begins a GET with more fields than it needs.
func (f *frames) ask(stream uint32, more ...string) {
	f.request(stream, append([]string{
		":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/k8s-proxy/version", "authorization", ciBearer,
	}, more...)...)
}

func (f *frames) request(stream uint32, fields ...string) {
	f.t.Helper()
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.encode(fields...), EndStream: true, EndHeaders: true}); err != nil {
		f.t.Fatal(err)
	}
}

// served says that a stream gets its answer: the connection works.
func (f *frames) served(stream uint32) {
	f.t.Helper()
	f.ask(stream)
	for {
		if h := await[*http2.MetaHeadersFrame](f); h.StreamID == stream {
			if got := h.PseudoValue("status"); got != "200" {
				f.t.Errorf("stream %d: status %s", stream, got)
			}
			return
		}
	}
}

// goAway waits for a GOAWAY and the end of the connection, and returns the last stream that counts.
func (f *frames) goAway(t *testing.T) uint32 {
	t.Helper()
	last := await[*http2.GoAwayFrame](f).LastStreamID
	for {
		if _, err := f.ReadFrame(); err != nil {
			return last
		}
	}
}

func TestHTTP2_Settings(t *testing.T) {
	got := newSecureLine(t, nil).frames().settings
	for id, want := range map[http2.SettingID]uint32{
		http2.SettingMaxConcurrentStreams: 100, http2.SettingInitialWindowSize: 256 << 10, http2.SettingMaxFrameSize: 32 << 10,
		http2.SettingMaxHeaderListSize: 1<<20 + 320, http2.SettingEnableConnectProtocol: 0,
	} {
		if got[id] != want {
			t.Errorf("%s = %d, want %d", id, got[id], want)
		}
	}
}

// What speaks about one connection only is not HTTP/2, whatever the cluster has said.
func TestHTTP2_NoConnectionHeadersInAnswer(t *testing.T) {
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		return a.Answer(200, "x", "Connection", "keep-alive, X-Private", "X-Private", "1", "Keep-Alive", "timeout=5", "Proxy-Connection", "close",
			"Transfer-Encoding", "chunked", "Upgrade", "h2c", "Trailer", "X", "X-Kept", "1")
	})
	f := l.frames()
	f.ask(1)
	h := await[*http2.MetaHeadersFrame](f)
	kept := false
	for _, field := range h.RegularFields() {
		switch field.Name {
		case "x-kept":
			kept = true
		case "connection", "x-private", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "trailer":
			t.Errorf("%s: %s", field.Name, field.Value)
		}
	}
	if !kept || h.PseudoValue("status") != "200" {
		t.Errorf("%v", h.Fields)
	}
	f.served(3)
}

// There is nothing to upgrade on a stream. Whoever asks for it all the same learns what is wrong, and the connection goes on.
func TestHTTP2_UpgradeIsRefused(t *testing.T) {
	l := newSecureLine(t, (&seen{}).record)
	f := l.frames()
	for i, field := range []string{"connection", "upgrade", "keep-alive", "proxy-connection", "transfer-encoding"} {
		stream := uint32(4*i + 1)
		f.ask(stream, field, "websocket")
		h := await[*http2.MetaHeadersFrame](f)
		if h.StreamID != stream || h.PseudoValue("status") != "400" {
			t.Errorf("%s: %v", field, h.Fields)
		}
		if text := string(await[*http2.DataFrame](f).Data()); !strings.Contains(strings.ToLower(text), fmt.Sprintf("%q is not valid in http/2", field)) {
			t.Errorf("%s: %q", field, text)
		}
		f.served(stream + 2)
	}
	if l.opened() != 5 {
		t.Errorf("the agent was asked %d times", l.opened())
	}
}

func TestHTTP2_ConnectIsRefused(t *testing.T) {
	l := newSecureLine(t, (&seen{}).record)
	f := l.frames()
	f.request(1, ":method", "CONNECT", ":authority", "x:443", "authorization", ciBearer)
	if h := await[*http2.MetaHeadersFrame](f); h.PseudoValue("status") != "400" {
		t.Errorf("CONNECT: %v", h.Fields)
	}
	f.request(3, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "x", ":path", "/k8s-proxy/exec", "authorization", ciBearer)
	if reset := await[*http2.RSTStreamFrame](f); reset.StreamID != 3 {
		t.Errorf("extended CONNECT: %v", reset)
	}
	f.served(5)
	if l.opened() != 1 {
		t.Errorf("the agent was asked %d times", l.opened())
	}
}

func TestHTTP2_ManyAndHugeHeaders(t *testing.T) {
	s := &seen{}
	l := newSecureLine(t, s.record)
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf("X-%d", i), fmt.Sprint(i))
	}
	if resp := l.open(t.Context(), "GET", "/", nil, many...); resp.StatusCode != 200 {
		t.Fatalf("%v", resp)
	}
	if n := len(s.get(t).GetRequest().GetHeader()); n < 10_001 {
		t.Errorf("the agent got %d headers", n)
	}
	f := l.frames()
	// Beyond the limit by little: refused.
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: f.encode(
		":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/k8s-proxy/", "authorization", ciBearer)})
	for range 207 {
		_ = f.WriteContinuation(1, false, f.encode("x", strings.Repeat("~", 5000)))
	}
	_ = f.WriteContinuation(1, true, f.encode("x", strings.Repeat("~", 8000)))
	if h := await[*http2.MetaHeadersFrame](f); h.PseudoValue("status") != "431" {
		t.Errorf("%v", h.Fields)
	}
	f.served(3)
}

// CVE-2023-45288: a header that never ends costs its connection, and nobody's memory.
func TestHTTP2_CVE_2023_45288_HeaderWithoutEnd(t *testing.T) {
	l := newSecureLine(t, (&seen{}).record)
	f := l.frames()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":method", "GET"), EndStream: true})
	piece := f.encode("x-piece", strings.Repeat("~", 10<<10))
	for i := 0; ; i++ {
		if i > 2000 {
			t.Fatalf("%d MiB of a header were taken", i*len(piece)>>20)
		}
		if f.WriteContinuation(1, false, piece) != nil {
			break
		}
	}
	if got, _ := l.get("/version"); got.StatusCode != 200 {
		t.Errorf("another connection: %v", got.Response)
	}
}

// stuck is somebody who counts requests and does not come back.
type stuck struct {
	release chan struct{}
	inside  atomic.Int32
}

func (s *stuck) ProxyRequest(string, int64, int64, int64) {
	s.inside.Add(1)
	<-s.release
}

// CVE-2023-44487: streams that are opened and reset at once count until their handlers have ended, and a connection on which it goes on
// and on is closed.
func TestHTTP2_CVE_2023_44487_RapidReset(t *testing.T) {
	s := &stuck{release: make(chan struct{})}
	l := newSecureLine(t, (&seen{}).record, func(c *k8sproxy.Config) { c.Usage = s })
	f := l.frames()
	told := make(chan http2.ErrCode, 1)
	go func() {
		defer close(told)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok {
				told <- away.ErrCode
			}
		}
	}()
	for i := range uint32(2000) {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndStream: true, EndHeaders: true, BlockFragment: f.encode(
			":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/k8s-proxy/version", "authorization", ciBearer)}) != nil ||
			f.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
			break
		}
	}
	if code := <-told; code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("GOAWAY with %s", code)
	}
	if n := s.inside.Load(); n == 0 || n > 100 {
		t.Errorf("%d handlers at a time", n)
	}
	close(s.release)
	if got, _ := l.get("/version"); got.StatusCode != 200 {
		t.Errorf("another connection: %v", got.Response)
	}
}
