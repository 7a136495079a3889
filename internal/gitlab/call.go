package gitlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// maxRetries is how often a call is repeated.
	maxRetries = 4
	firstRetry = 100 * time.Millisecond
	// lastRetry bounds the pauses. A GitLab that wants to be left alone for longer than this is not asked again.
	lastRetry = 30 * time.Second
	// drained is how much of an answer that nobody wants is read to keep its connection.
	drained = 64 << 10
	// drainTimeout is how long that may take: what was asked is known by then.
	drainTimeout = time.Second

	headerJWT = "Gitlab-Kas-Api-Request"
)

var (
	errSlow    = errors.New("GitLab takes too long for its answer")
	errNotHTTP = errors.New("what answers is not an HTTP server")
	errToken   = fault.New(fault.Unauthenticated, fault.Agent, "unauthenticated")
)

// call is one question to GitLab, however many requests it takes.
type call struct {
	endpoint string
	method   string
	// path is escaped and has the prefix of the address.
	path, query string
	header      http.Header
	body        []byte
	// open: whoever asks, the question needs no proof that it comes from kas.
	open bool
	// agentToken is that of the agent on whose behalf the question is; empty: on nobody's.
	agentToken string
	// once: the question is not repeated.
	once bool
	// stream: the answer may take as long as the caller wants.
	stream bool
}

// path puts the address's prefix before a path.
func (c *Client) path(rest string) string { return c.prefix + rest }

// send asks until there is an answer that is worth having, and returns the last one, whatever its status. The caller closes
// its body.
func (c *Client) send(ctx context.Context, q *call) (*http.Response, error) {
	if !httpguts.ValidHeaderFieldValue(q.agentToken) {
		return nil, errToken
	}
	delays := backoff.New(c.retries)
	for left := maxRetries; ; left-- {
		resp, err := c.authenticated(ctx, q)
		if q.once || left == 0 || ctx.Err() != nil || !worthRepeating(resp, err) {
			return resp, err
		}
		pause := delays.Next()
		if asked := retryAfter(resp); asked > 0 {
			pause = asked
		}
		deadline, bounded := ctx.Deadline()
		if pause > lastRetry || bounded && time.Until(deadline) <= pause {
			return resp, err
		}
		if resp != nil {
			discard(resp)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func worthRepeating(resp *http.Response, err error) bool {
	if err != nil {
		var certificate *tls.CertificateVerificationError
		var known *fault.Error
		return !errors.As(err, &certificate) && !errors.As(err, &known) && !errors.Is(err, errLimited)
	}
	return resp.StatusCode == http.StatusTooManyRequests ||
		resp.StatusCode >= http.StatusInternalServerError && resp.StatusCode != http.StatusNotImplemented
}

// retryAfter is how long GitLab wants to be left alone; 0: it does not say.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt sends one request. bearer: the agent token is in Authorization too.
func (c *Client) attempt(ctx context.Context, q *call, bearer bool) (*http.Response, error) {
	if err := c.limiter.wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.answerTimeout, func() { cancel(errSlow) })
	release := func() { timer.Stop(); cancel(nil) }
	req, err := c.request(ctx, q, bearer)
	if err != nil {
		release()
		return nil, err
	}
	start := time.Now()
	// Not http.Client: it would follow redirects, and carry the tokens along.
	resp, err := c.transport.get().RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else if strings.Contains(err.Error(), "malformed") { // the text would quote the answer
			err = errNotHTTP
		}
		release()
		c.metrics.observe(q.endpoint, 0, time.Since(start))
		return nil, err
	}
	c.metrics.observe(q.endpoint, resp.StatusCode, time.Since(start))
	if q.stream {
		timer.Stop()
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, ctx: ctx, release: release}
	return resp, nil
}

func (c *Client) request(ctx context.Context, q *call, bearer bool) (*http.Request, error) {
	u := *c.base
	var err error
	if u.Path, err = url.PathUnescape(q.path); err != nil {
		return nil, fault.New(fault.InvalidArgument, fault.Client, "the path is not well escaped")
	}
	u.RawPath, u.RawQuery = q.path, q.query
	req, err := http.NewRequestWithContext(ctx, q.method, "/", bytes.NewReader(q.body))
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, fault.Client, "not an HTTP method")
	}
	req.URL, req.Host = &u, u.Host
	if q.header != nil {
		req.Header = q.header.Clone()
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if c.user != nil {
		password, _ := c.user.Password()
		req.SetBasicAuth(c.user.Username(), password)
	}
	if q.agentToken != "" {
		setAgentToken(req.Header, q.agentToken, bearer)
	}
	if !q.open {
		token, err := c.signer.sign(time.Now())
		if err != nil {
			return nil, fault.New(fault.Internal, fault.Kas, "cannot sign a request to GitLab")
		}
		req.Header.Set(headerJWT, token)
	}
	return req, nil
}

// answerBody frees what its request holds when it is closed, and tells why it broke off.
type answerBody struct {
	io.ReadCloser
	ctx     context.Context
	release func()
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *answerBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

// discard closes an answer, and keeps its connection if little is left of it.
func discard(resp *http.Response) {
	if body, ok := resp.Body.(*answerBody); ok {
		defer time.AfterFunc(drainTimeout, body.release).Stop()
	}
	_, _ = io.CopyN(io.Discard, resp.Body, drained)
	_ = resp.Body.Close()
}
