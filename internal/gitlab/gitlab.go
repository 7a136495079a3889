// Package gitlab is the way from kas to GitLab's REST API. It holds the decisions that every call shares: how kas and the
// agent prove who they are, what is asked again and when, how much of an answer is read, and which failure means "no" and
// which means "not now". It remembers no answers: its users do, each for as long as it can bear.
//
// No error of this package holds a token, a key, a password or any part of an answer, but for the reason that GitLab gives
// for refusing a user.
package gitlab

import (
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/version"
)

const (
	defaultPerSecond = 50
	defaultBurst     = 250
)

// RateLimit is a token bucket. Its zero value means 50 requests per second and a bucket of 250.
type RateLimit struct {
	// PerSecond is how many requests may be sent per second in the long run.
	PerSecond float64
	// Burst is how many may be sent at once.
	Burst int
}

// Config is what a Client needs.
type Config struct {
	// Address is GitLab's URL; it may have a path prefix, and a user and password for a proxy in front of GitLab.
	Address string
	// SecretFile holds the key that kas shares with GitLab: 32 bytes in Base64. It is read again when it changes.
	SecretFile string
	// CAFile holds PEM certificates of authorities that are trusted besides those of the system. It is read again when it
	// changes. Empty: those of the system only.
	CAFile string
	// RateLimit bounds the requests of this client. Requests above it wait.
	RateLimit RateLimit
	// UserAgent is the product token that kas sends. Default version.Kas().
	UserAgent  string
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Client calls GitLab. It is safe for concurrent use. All its methods end when their context does, and at the latest after the
// timeouts of all their attempts.
type Client struct {
	cfg Config
	// base is scheme and host of the address; prefix is its escaped path without a trailing slash.
	base   *url.URL
	prefix string
	// user is what was before the @ of the address, or nil.
	user      *url.Userinfo
	signer    *signer
	transport *transport
	limiter   *limiter
	metrics   *metrics
	retries   backoff.Policy
	// answerTimeout bounds one attempt from the dial to the end of the answer.
	answerTimeout time.Duration
	// form is the tokenForm that GitLab has been seen to accept.
	form atomic.Int32
	// infoMoved: GitLab has been seen to know agents at newAgentInfoPath only.
	infoMoved atomic.Bool
	// complain bounds how often the log says that GitLab does not know kas.
	complain rate.Sometimes
}

// New checks cfg and reads its files.
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	address, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	signer, err := newSigner(cfg.SecretFile, cfg.Log)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg.CAFile, cfg.Log)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, base: &url.URL{Scheme: address.Scheme, Host: address.Host}, prefix: strings.TrimRight(address.EscapedPath(), "/"),
		user: address.User, signer: signer, transport: transport, answerTimeout: answerTimeout,
		complain: rate.Sometimes{Interval: disownedEvery},
		retries:  backoff.Policy{Initial: firstRetry, Max: lastRetry, Factor: 2, ResetAfter: time.Hour},
	}
	if c.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, err
	}
	if c.limiter, err = newLimiter(cfg.RateLimit, cfg.Registerer); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) complete() error {
	if c.RateLimit.PerSecond < 0 || c.RateLimit.Burst < 0 {
		return errors.New("gitlab: the rate limit must not be negative")
	}
	if c.RateLimit.PerSecond == 0 {
		c.RateLimit.PerSecond = defaultPerSecond
	}
	if c.RateLimit.Burst == 0 {
		c.RateLimit.Burst = defaultBurst
	}
	if c.UserAgent == "" {
		c.UserAgent = version.Kas()
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return nil
}

// parseAddress never shows the address in an error: it may hold a password.
func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("gitlab: the address is not a URL")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("gitlab: the address must begin with http:// or https:// and a host name")
	}
	return u, nil
}

// Close drops idle connections. Calls under way are not touched; their contexts end them.
func (c *Client) Close() { c.transport.close() }

// Changed returns nil: GitLab does not tell when agents or tokens change, so answers can only age.
func (c *Client) Changed() <-chan struct{} { return nil }
