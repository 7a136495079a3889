package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/internal/doctor"
)

// maxBody is how much of an answer is looked at.
const maxBody = 64 << 10

// Answer is what an HTTP server said.
type Answer struct {
	Code   int
	Header http.Header
	Body   string
	// Offset is how far the server's clock is ahead of ours, by its Date header. Dated says whether there was one.
	Offset time.Duration
	Dated  bool
}

// HTML says whether it is a page for people.
func (a *Answer) HTML() bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || strings.HasPrefix(strings.TrimSpace(strings.ToLower(a.Body)), "<")
}

// Get asks a URL; nil: the outcome says why there is no answer. header may be nil.
func (t Target) Get(ctx context.Context, at *url.URL, header http.Header) (*Answer, doctor.Outcome) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return nil, doctor.Bad("not-websocket", "%s: %v", t.Name, err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		request.Host = host
	}
	sent := time.Now()
	response, err := t.Client().Do(request)
	if err != nil {
		return nil, t.explainHTTP(err)
	}
	defer response.Body.Close()
	got := time.Now()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, t.explainHTTP(err)
	}
	a := &Answer{Code: response.StatusCode, Header: response.Header, Body: string(body)}
	a.Offset, a.Dated = offset(response.Header.Get("Date"), sent, got)
	return a, doctor.Good("%s answers %d", t.Name, a.Code)
}

// offset is how far the server's clock is ahead. The header has whole seconds, so the middle of its second is compared with the middle
// of the exchange.
func offset(date string, sent, got time.Time) (time.Duration, bool) {
	at, err := http.ParseTime(date)
	if err != nil {
		return 0, false
	}
	return at.Add(time.Second / 2).Sub(sent.Add(got.Sub(sent) / 2)), true
}

// Ahead says how far another clock is from ours.
func Ahead(offset time.Duration) string {
	if offset < 0 {
		return offset.Abs().Round(time.Second).String() + " behind"
	}
	return offset.Round(time.Second).String() + " ahead"
}

func (t Target) explainHTTP(err error) doctor.Outcome {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // the URL is told already
	}
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return doctor.Bad("too-slow", "%s: %s did not answer", t.Name, t.Address())
	case strings.Contains(text, "malformed HTTP"), strings.Contains(text, "malformed MIME"):
		if !t.Encrypted() {
			return doctor.Bad("tls-expected", "%s: %s does not answer in HTTP/1.1: it may want TLS, or be a port for plain gRPC", t.Name, t.Address())
		}
		return doctor.Bad("wrong-protocol", "%s: %s does not answer in HTTP/1.1", t.Name, t.Address())
	case strings.HasSuffix(text, "EOF") && !t.Encrypted():
		return doctor.Bad("tls-expected", "%s: %s closed the connection without an answer to plain HTTP", t.Name, t.Address())
	default:
		return Explain(t.Name, t.Address(), err)
	}
}

// Front explains an HTTP answer that does not come from kas; ok is false if it may be one of kas.
func (t Target) Front(a *Answer) (o doctor.Outcome, foreign bool) {
	at := fmt.Sprintf("%s: %s answered %d", t.Name, t.Address(), a.Code)
	switch {
	case a.Code >= 300 && a.Code < 400:
		return doctor.Bad("redirect", "%s, it points to %s", at, location(t.URL, a.Header.Get("Location"))), true
	case a.Code == http.StatusBadRequest && strings.Contains(a.Body, "HTTPS"):
		return doctor.Bad("tls-expected", "%s: it wants HTTPS", at), true
	case a.Code == http.StatusNotFound:
		return doctor.Bad("not-routed", "%s", at), true
	case a.Code == http.StatusBadGateway, a.Code == http.StatusServiceUnavailable, a.Code == http.StatusGatewayTimeout:
		return doctor.Bad("bad-gateway", "%s", at), true
	case a.Code == http.StatusUnauthorized, a.Code == http.StatusForbidden, a.Code == http.StatusProxyAuthRequired:
		return doctor.Bad("refused-in-front", "%s", at), true
	case a.Code == http.StatusOK && a.HTML():
		return doctor.Bad("web-page", "%s with a web page", at), true
	}
	return doctor.Outcome{}, false
}

// location is where a redirect leads, without a query.
func location(from *url.URL, to string) string {
	u, err := url.Parse(to)
	if err != nil || to == "" {
		return "nowhere"
	}
	u = from.ResolveReference(u)
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
