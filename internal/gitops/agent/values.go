package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/api/agentcfg"
)

// maxValues bounds what max_file_size may be, in bytes: agentk keeps the newest values of each URL.
const maxValues = 5 << 20

// valuesURL is where values of a chart are polled.
type valuesURL struct {
	url  *url.URL
	poll time.Duration
	max  int64
}

// String is the URL without what may be a secret.
func (v *valuesURL) String() string {
	return (&url.URL{Scheme: v.url.Scheme, Host: v.url.Host, Path: v.url.Path}).String()
}

// valuesReader reads values from URLs. A configuration comes from a repository, and agentk stands inside a cluster: which servers it asks
// is decided by whoever installs it, by prefixes, and a server that is asked cannot send it to another one.
type valuesReader struct {
	allowed []*url.URL
	client  *http.Client
}

func newValuesReader(prefixes []string, transport http.RoundTripper, t timing) (*valuesReader, error) {
	r := &valuesReader{client: &http.Client{
		Transport: transport,
		Timeout:   t.values,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
	for _, prefix := range prefixes {
		u, err := parseHTTPS(prefix)
		if err != nil {
			return nil, fmt.Errorf("prefix %q of URLs for values: %w", prefix, err)
		}
		if u.RawQuery != "" {
			return nil, fmt.Errorf("prefix %q of URLs for values: it must not have a query", u.Host+u.Path)
		}
		r.allowed = append(r.allowed, u)
	}
	if transport == nil && len(prefixes) > 0 {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxIdleConnsPerHost = 1
		r.client.Transport = own
	}
	return r, nil
}

// CheckValuesURL says what is wrong with a prefix of URLs for values.
func CheckValuesURL(prefix string) error {
	_, err := newValuesReader([]string{prefix}, nil, timing{})
	return err
}

// parseHTTPS reads a URL whose path says what it means. Errors do not quote it, for it may hold a password.
func parseHTTPS(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	switch {
	case u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("it must begin with https:// and a host")
	case u.User != nil:
		return nil, errors.New("it must not have a user or password")
	case u.Fragment != "":
		return nil, errors.New("it must not have a fragment")
	case u.Path != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") && u.Path != "/", strings.Contains(u.Path, `\`), u.RawPath != "":
		return nil, errors.New("its path must not have the components . and .., empty ones, or encoded slashes")
	}
	u.Host = strings.TrimSuffix(strings.ToLower(u.Host), ":443")
	return u, nil
}

// check reads and bounds the URL of a configuration.
func (r *valuesReader) check(cfg *agentcfg.ChartValuesUrlCF) (*valuesURL, error) {
	u, err := parseHTTPS(cfg.GetUrl())
	if err != nil {
		return nil, err
	}
	if !r.allows(u) {
		return nil, fmt.Errorf("agentk does not read values from %s: it would have to run with --gitops-values-url=%s", u.Host, "https://"+u.Host+"/")
	}
	poll, size := cfg.GetPollPeriod().AsDuration(), int64(cfg.GetMaxFileSize())
	if poll < time.Second {
		return nil, fmt.Errorf("poll_period: must be at least %s", seconds(time.Second))
	}
	if size > maxValues {
		return nil, fmt.Errorf("max_file_size: must be at most %d", maxValues)
	}
	return &valuesURL{url: u, poll: poll, max: size}, nil
}

// allows compares whole components of the path.
func (r *valuesReader) allows(u *url.URL) bool {
	for _, a := range r.allowed {
		prefix := strings.TrimSuffix(a.Path, "/")
		if u.Host == a.Host && (u.Path == prefix || strings.HasPrefix(u.Path, prefix+"/")) {
			return true
		}
	}
	return false
}

// read gets the values. Errors name the URL without its query.
func (r *valuesReader) read(ctx context.Context, v *valuesURL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("values from %s: the URL is refused", v)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err // it repeats the whole URL otherwise
		}
		return nil, fmt.Errorf("values from %s: %w", v, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or is not wanted
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, fmt.Errorf("values from %s: the server redirects (%d), which is not followed", v, resp.StatusCode)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("values from %s: the server answered %d", v, resp.StatusCode)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, v.max+1))
	if err != nil {
		return nil, fmt.Errorf("values from %s: %w", v, err)
	}
	if int64(len(content)) > v.max {
		return nil, fmt.Errorf("values from %s: more than %d bytes (max_file_size)", v, v.max)
	}
	return content, nil
}

func (r *valuesReader) close() { r.client.CloseIdleConnections() }
