package k8sproxy

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/route"
)

// Opener finds the way to an agent.
type Opener interface {
	Open(ctx context.Context, r route.Request) (route.Call, error)
}

// JobAuthorizer says which agents a CI job may use. Faults: Unauthenticated, PermissionDenied and NotFound are the outside
// world's answers, which are cached; anything else is its failure.
type JobAuthorizer interface {
	AllowedAgents(ctx context.Context, jobToken string) (*gitlabapi.AllowedAgentsForJob, error)
}

// UserAuthorizer says whether a user may use an agent, with the same faults.
type UserAuthorizer interface {
	AuthorizeUser(ctx context.Context, q *gitlabapi.AuthorizeProxyUserRequest) (*gitlabapi.AuthorizeProxyUserResponse, error)
}

// Usage counts requests that were authorized. kind is "ci", "pat" or "user", after the credential. It must not wait.
type Usage interface {
	ProxyRequest(kind string, userID, agentID, configProjectID int64)
}

const (
	defaultCacheEntries  = 10_000
	defaultListenGrace   = 5 * time.Second
	defaultShutdownGrace = time.Hour
)

// Config configures a Proxy.
type Config struct {
	Log        *zap.Logger
	Registerer prometheus.Registerer
	Opener     Opener
	Jobs       JobAuthorizer
	// Users is nil if nobody authorizes users; personal access tokens and session cookies are then refused.
	Users UserAuthorizer
	// Changed returns a channel that is closed at the next change of what Jobs and Users answer; the cache is then emptied.
	// nil: answers only age.
	Changed func() <-chan struct{}
	// URLPathPrefix is what paths start with, for example "/k8s-proxy/". A trailing slash is added if there is none.
	URLPathPrefix string
	// AllowedOrigins are the origins that browsers may call from, compared byte for byte: normally GitLab's external URL.
	AllowedOrigins []string
	// AllowedAgentCacheTTL is how long an authorization is believed. 0: every request asks.
	AllowedAgentCacheTTL time.Duration
	// AllowedAgentCacheErrorTTL is how long a refusal is believed. 0: refusals are not cached.
	AllowedAgentCacheErrorTTL time.Duration
	// ExtraAllowedResponseHeaders are names of a cluster's response headers that browser sessions get besides the usual ones.
	ExtraAllowedResponseHeaders []string
	// Usage is nil if nobody counts.
	Usage Usage
	// CacheEntries bounds the cache; 0 is 10 000.
	CacheEntries int
	// ShowTraceID adds the trace id to error messages; meant for a kas that exports traces.
	ShowTraceID bool
	// ListenGracePeriod is how long new connections are accepted after the stop; 0 is 5 s, negative is none.
	ListenGracePeriod time.Duration
	// ShutdownGracePeriod is how long requests may go on after that; 0 is 1 h, negative is none.
	ShutdownGracePeriod time.Duration
	// Now is the clock of the cache; nil is time.Now.
	Now func() time.Time
}

func (c *Config) complete() error {
	switch {
	case c.Log == nil, c.Registerer == nil, c.Opener == nil, c.Jobs == nil:
		return errors.New("kubernetes proxy: Log, Registerer, Opener and Jobs are required")
	case c.AllowedAgentCacheTTL < 0 || c.AllowedAgentCacheErrorTTL < 0:
		return errors.New("kubernetes proxy: cache times must not be negative")
	case !strings.HasPrefix(c.URLPathPrefix, "/") && c.URLPathPrefix != "":
		return errors.New("kubernetes proxy: url_path_prefix must start with /")
	}
	if !strings.HasSuffix(c.URLPathPrefix, "/") {
		c.URLPathPrefix += "/"
	}
	if c.CacheEntries == 0 {
		c.CacheEntries = defaultCacheEntries
	}
	if c.ListenGracePeriod == 0 {
		c.ListenGracePeriod = defaultListenGrace
	}
	if c.ShutdownGracePeriod == 0 {
		c.ShutdownGracePeriod = defaultShutdownGrace
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Proxy is the handler. Close is not needed: it starts nothing by itself.
type Proxy struct {
	cfg           Config
	prefix        string
	escapedPrefix string
	metrics       *metrics
	policy        *responsePolicy
	jobs          *cache[*granted[*gitlabapi.AllowedAgentsForJob]]
	users         *cache[*granted[*gitlabapi.AuthorizeProxyUserResponse]]
	inflight      inflight
	// fields holds *[]zap.Field, for log lines.
	fields sync.Pool
	// leaving: clients are asked to take their next request elsewhere.
	leaving atomic.Bool
	// closed is closed when no request can arrive any more.
	closed    chan struct{}
	closeOnce sync.Once
}

// New returns a Proxy. It fails if the configuration is incomplete or its metrics cannot be registered.
func New(cfg Config) (*Proxy, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	policy, err := newResponsePolicy(cfg.ExtraAllowedResponseHeaders, cfg.Log)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	limits := cacheLimits{ttl: cfg.AllowedAgentCacheTTL, errorTTL: cfg.AllowedAgentCacheErrorTTL, entries: cfg.CacheEntries, now: cfg.Now}
	return &Proxy{
		cfg:           cfg,
		prefix:        cfg.URLPathPrefix,
		escapedPrefix: (&url.URL{Path: cfg.URLPathPrefix}).EscapedPath(),
		metrics:       m,
		policy:        policy,
		closed:        make(chan struct{}),
		fields:        sync.Pool{New: func() any { list := make([]zap.Field, 0, maxFields); return &list }},
		jobs:          newCache[*granted[*gitlabapi.AllowedAgentsForJob]](limits),
		users:         newCache[*granted[*gitlabapi.AuthorizeProxyUserResponse]](limits),
	}, nil
}

// Invalidate forgets all cached authorizations and refusals, also those that are being fetched.
func (p *Proxy) Invalidate() {
	p.jobs.clear()
	p.users.clear()
}
