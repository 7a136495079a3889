package wsconn

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	defaultPreambleTimeout = 10 * time.Second
	defaultMaxPreambles    = 4096
	// closeGrace is how long connections that are still in their preamble may take to learn that kas is shutting down.
	closeGrace = 2 * time.Second
	// maxHeader bounds the header of an upgrade request, and of the answer to one.
	maxHeader = 64 << 10
)

// preface is what every HTTP/2 client sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// MuxConfig says what a Mux serves.
type MuxConfig struct {
	// Listener accepts the transport connections. The Mux owns it from Run on.
	Listener net.Listener
	// TLS serves TLS when it is not nil. Its NextProtos are replaced.
	TLS *tls.Config
	// WebSocket serves gRPC inside WebSocket beside plain gRPC.
	WebSocket bool
	// Server is the Server header of HTTP answers.
	Server string
	// KubernetesAPI is the URL of the Kubernetes API proxy, told to clients that took this port for it; it may be empty.
	KubernetesAPI string
	// PreambleTimeout bounds everything before a connection has shown what it is, the TLS handshake included. Default 10 s.
	PreambleTimeout time.Duration
	// MaxPreambles bounds the connections in that state. Default 4096.
	MaxPreambles int
	Log          *zap.Logger
}

// Mux serves plain gRPC and gRPC inside WebSocket on one port. With TLS the client says by ALPN which it wants; without TLS, or of a
// client that knows no ALPN, such as a reverse proxy, the first bytes tell.
type Mux struct {
	cfg     MuxConfig
	tls     *tls.Config
	waiting *admission
	grpc    *queue
	web     *queue
	// closing ends when no new connection is wanted any more.
	closing       context.Context
	close         context.CancelFunc
	closeListener sync.Once
	// preambles counts the goroutines of accept.
	preambles sync.WaitGroup
}

// NewMux checks cfg. Nothing is served before Run.
func NewMux(cfg MuxConfig) (*Mux, error) {
	if cfg.Listener == nil {
		return nil, errors.New("wsconn: no listener")
	}
	if cfg.PreambleTimeout <= 0 {
		cfg.PreambleTimeout = defaultPreambleTimeout
	}
	if cfg.MaxPreambles <= 0 {
		cfg.MaxPreambles = defaultMaxPreambles
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	m := &Mux{cfg: cfg, waiting: newAdmission(cfg.MaxPreambles)}
	if cfg.TLS != nil {
		m.tls = cfg.TLS.Clone()
		m.tls.MinVersion = max(m.tls.MinVersion, tls.VersionTLS12)
		m.tls.NextProtos = []string{"h2"}
		if cfg.WebSocket {
			m.tls.NextProtos = []string{"h2", "http/1.1"}
		}
	}
	m.closing, m.close = context.WithCancel(context.Background())
	m.grpc, m.web = newQueue(cfg.Listener.Addr()), newQueue(cfg.Listener.Addr())
	m.grpc.onClose = m.shutdown
	return m, nil
}

// GRPCListener yields every connection that carries gRPC, however it came. Closing it stops the Mux: nothing new is accepted,
// and a peer whose upgrade is still under way is told so.
func (m *Mux) GRPCListener() net.Listener { return m.grpc }

func (m *Mux) shutdown() {
	m.close()
	m.grpc.shut()
	m.closeListener.Do(func() { _ = m.cfg.Listener.Close() })
}

// Run serves until ctx ends or the gRPC listener is closed, and waits for all it started. Connections that were handed over
// belong to the gRPC server and stay.
func (m *Mux) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, m.shutdown)()
	server := m.httpServer()
	served := make(chan struct{})
	go func() {
		defer close(served)
		// Serve always ends with http.ErrServerClosed: the queue fails only when closed.
		_ = server.Serve(m.web)
	}()
	err := m.accept()
	m.shutdown()

	evict := time.AfterFunc(closeGrace, m.waiting.closeAll)
	defer evict.Stop()
	m.preambles.Wait()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if server.Shutdown(bounded) != nil {
		_ = server.Close()
	}
	_ = m.web.Close()
	<-served
	return err
}

// accept starts a goroutine for every connection until the listener is closed.
func (m *Mux) accept() error {
	var pause time.Duration
	for {
		raw, err := m.cfg.Listener.Accept()
		if err != nil {
			if m.closing.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var netErr net.Error
			if !errors.As(err, &netErr) {
				return err
			}
			// Typically out of file descriptors: others will end.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			m.cfg.Log.Warn("Cannot accept a connection", zap.Error(err), zap.Duration("retry_in", pause))
			select {
			case <-time.After(pause):
			case <-m.closing.Done():
			}
			continue
		}
		pause = 0
		release, err := m.waiting.admit(m.closing, raw)
		if err != nil {
			_ = raw.Close()
			return nil
		}
		m.preambles.Go(func() { m.preamble(raw, release) })
	}
}

// preamble finds out what a connection is and hands it over.
func (m *Mux) preamble(raw net.Conn, release func()) {
	conn, native, err := m.classify(raw, release)
	if err != nil {
		m.cfg.Log.Debug("Connection ended before it showed what it is", zap.Stringer("remote", raw.RemoteAddr()), zap.Error(err))
		_ = raw.Close()
		release()
		return
	}
	if !native {
		if !m.web.put(conn) {
			_ = conn.Close()
		}
		return
	}
	// From here on the gRPC server's own connection timeout holds.
	release()
	conn.readAhead()
	if conn.setEnd(time.Time{}) != nil || !m.grpc.put(conn) {
		_ = conn.Close()
	}
}

// errNotGRPC refuses everything but gRPC where WebSocket is off.
var errNotGRPC = errors.New("the peer does not speak HTTP/2")

// classify says whether conn speaks gRPC itself; otherwise it is for the WebSocket server.
func (m *Mux) classify(raw net.Conn, release func()) (conn *link, native bool, err error) {
	end := time.Now().Add(m.cfg.PreambleTimeout)
	if err := raw.SetDeadline(end); err != nil {
		return nil, false, err
	}
	negotiated := ""
	if m.tls != nil {
		ctx, cancel := context.WithDeadline(context.Background(), end)
		defer cancel()
		secure := tls.Server(raw, m.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, false, err
		}
		negotiated = secure.ConnectionState().NegotiatedProtocol
		raw = secure
	}
	var head []byte
	if native = negotiated == "h2"; negotiated == "" {
		if head, native, err = readPreface(raw); err != nil {
			return nil, false, err
		}
	}
	conn = newLink(raw, head, release)
	if !native && !m.cfg.WebSocket {
		return nil, false, errNotGRPC
	}
	return conn, native, conn.setEnd(end)
}

// readPreface reads no further than the first byte that differs from the HTTP/2 preface: an HTTP/1.1 client may send less
// than a preface and wait for the answer.
func readPreface(conn net.Conn) (head []byte, isHTTP2 bool, err error) {
	head = make([]byte, 0, len(preface))
	for len(head) < len(preface) {
		n, err := conn.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if !bytes.HasPrefix([]byte(preface), head) {
			return head, false, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return head, true, nil
}

// debugLog is where net/http complains about its peers: they are strangers, nothing they do is worth more than a debug line.
func debugLog(log *zap.Logger) *stdlog.Logger {
	std, err := zap.NewStdLogAt(log, zap.DebugLevel)
	if err != nil {
		return stdlog.New(io.Discard, "", 0)
	}
	return std
}

// linkKey finds the link of a request in its context.
type linkKey struct{}

func (m *Mux) httpServer() *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(m.upgrade),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            m.cfg.PreambleTimeout,
		WriteTimeout:                 m.cfg.PreambleTimeout,
		IdleTimeout:                  30 * time.Second, // health checks of load balancers reuse their connection
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     debugLog(m.cfg.Log),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, linkKey{}, conn)
		},
	}
}
