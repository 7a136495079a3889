package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

const (
	readTimeout  = time.Second
	writeTimeout = 15 * time.Second
	idleTimeout  = time.Minute
	// stopTimeout is how long a running answer may delay the end of the daemon.
	stopTimeout = 5 * time.Second
	// maxProfile bounds the seconds a profile may be asked for.
	maxProfile = 5 * time.Minute
	// defaultProfile is what net/http/pprof takes when no length is asked for.
	defaultProfile = 30 * time.Second
	pprofPrefix    = "/debug/pprof/"
)

// Default paths of the observability server.
const (
	DefaultMetricsPath   = "/metrics"
	DefaultLivenessPath  = "/liveness"
	DefaultReadinessPath = "/readiness"
)

// ServerConfig is what the observability server needs.
type ServerConfig struct {
	// Product is the value of the Server header.
	Product string
	// Registry is both shown and given the metrics about showing it.
	Registry *prometheus.Registry
	// Liveness and Readiness decide the answers of the probes; nil means that the daemon is always alive or ready.
	Liveness, Readiness *Probes
	// MetricsPath, LivenessPath and ReadinessPath start with a slash; empty means the default. /livez and /readyz answer
	// too, unless they are among these.
	MetricsPath, LivenessPath, ReadinessPath string
	Log                                      *zap.Logger
}

// Server answers metrics, probes and profiles over HTTP.
type Server struct {
	cfg    ServerConfig
	routes map[string]http.Handler
}

// NewServer returns a server, or an error if two of its paths are the same or a path has no leading slash.
func NewServer(cfg ServerConfig) (*Server, error) {
	s := &Server{cfg: cfg, routes: map[string]http.Handler{}}
	handler := promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{Timeout: writeTimeout, ErrorLog: promLog{cfg.Log}})
	metrics := promhttp.InstrumentMetricHandler(cfg.Registry, handler)
	err := errors.Join(
		s.route(cfg.MetricsPath, DefaultMetricsPath, metrics),
		s.route(cfg.LivenessPath, DefaultLivenessPath, probeHandler(cfg.Liveness)),
		s.route(cfg.ReadinessPath, DefaultReadinessPath, probeHandler(cfg.Readiness)),
		s.route("", pprofPrefix+"profile", longAnswer(pprof.Profile)),
		s.route("", pprofPrefix+"trace", longAnswer(pprof.Trace)),
		s.route("", pprofPrefix+"symbol", http.HandlerFunc(pprof.Symbol)),
	)
	if err != nil {
		return nil, err
	}
	for path, probes := range map[string]*Probes{"/livez": cfg.Liveness, "/readyz": cfg.Readiness} {
		if _, taken := s.routes[path]; !taken { // the configuration may use the name itself
			s.routes[path] = probeHandler(probes)
		}
	}
	return s, nil
}

func (s *Server) route(path, byDefault string, h http.Handler) error {
	if path == "" {
		path = byDefault
	}
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("observability path %q does not start with a slash", path)
	}
	if _, taken := s.routes[path]; taken {
		return fmt.Errorf("observability path %q is used twice", path)
	}
	s.routes[path] = h
	return nil
}

// Run serves on a listener, which it closes, until ctx ends. Answers under way then have a moment to end.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          zap.NewStdLog(s.cfg.Log),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("observability server: %w", err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stopCtx)
	if err != nil {
		// Whoever still reads a profile has to do without its end.
		err = srv.Close()
	}
	<-served
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("stop observability server: %w", err)
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", s.cfg.Product)
	// Not http.Server.WriteTimeout: the profiles refuse to run longer than that, and they may.
	s.deadline(w, writeTimeout)
	h, ok := s.routes[r.URL.Path]
	if !ok && strings.HasPrefix(r.URL.Path, pprofPrefix) {
		// The index also serves the named profiles. There is no cmdline: flags may carry credentials.
		h, ok = http.HandlerFunc(pprof.Index), true
	}
	switch {
	case !ok:
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		h.ServeHTTP(w, r)
	}
}

func (s *Server) deadline(w http.ResponseWriter, d time.Duration) {
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d)); err != nil {
		s.cfg.Log.Debug("Observability answer has no deadline", zap.Error(err))
	}
}

func probeHandler(p *Probes) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p == nil {
			return
		}
		if err := p.Check(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, p.said()) // who asks may be gone
	})
}

// longAnswer gives a profile the time that it was asked to run, beyond the usual deadlines.
func longAnswer(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		length := defaultProfile
		if sec, err := strconv.ParseFloat(r.FormValue("seconds"), 64); err == nil && sec > 0 {
			length = time.Duration(min(sec, maxProfile.Seconds()+1) * float64(time.Second))
		}
		if length > maxProfile {
			http.Error(w, "seconds: at most "+strconv.Itoa(int(maxProfile.Seconds())), http.StatusBadRequest)
			return
		}
		rc := http.NewResponseController(w)
		// Without this the read deadline of the request would end the profile: the server takes it for a client that left.
		err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Now().Add(length+writeTimeout)))
		if err != nil {
			http.Error(w, "profiles need a connection with deadlines", http.StatusInternalServerError)
			return
		}
		h(w, r)
	})
}

// promLog gives errors of collecting metrics to the log.
type promLog struct{ log *zap.Logger }

func (p promLog) Println(v ...any) {
	p.log.Warn("Metrics could not be collected: " + strings.TrimSpace(fmt.Sprintln(v...)))
}
