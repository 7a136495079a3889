package gitlab

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// maxModuleBody bounds the request of an agent's module, which is held in memory to be repeated.
	maxModuleBody = 32 << 20
	// maxEscapes is how often a path may be escaped over and over before it is not a module's path any more.
	maxEscapes = 4
)

// notForModules are headers that an agent's module must not set: they say who asks, how to talk to the next hop only, or what
// proxies on the way have seen.
var notForModules = []string{
	"Authorization", "Cookie", "Deploy-Token", "Job-Token", "Private-Token", "Proxy-Authorization",
	"Connection", "Expect", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host",
	"Forwarded", "X-Real-Ip",
}

// Module passes on a request of an agent's module to the part of GitLab with that name. Method, path, query, headers and body
// are those of r. The answer is returned whatever its status; the caller closes its body, and ctx must live until then.
//
// The request gets kas's own proof of identity, which opens all of GitLab's internal API. So what could lead out of the
// module's part is refused (InvalidArgument): dots as path segments, in whatever way they are escaped.
func (c *Client) Module(ctx context.Context, agentToken, module string, r *http.Request) (*http.Response, error) {
	if agentToken == "" {
		return nil, errToken
	}
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return nil, fault.New(fault.InvalidArgument, fault.Agent, "a module's request must not have this method")
	}
	rest, err := modulePath(module, r.URL)
	if err != nil {
		return nil, err
	}
	body, err := moduleBody(r)
	if err != nil {
		return nil, err
	}
	q := &call{
		endpoint: endpointModules, method: r.Method, path: c.path(internalAPI + "modules/" + rest), query: r.URL.RawQuery,
		header: moduleHeader(r.Header), body: body, agentToken: agentToken, stream: true,
	}
	resp, err := c.send(ctx, q)
	if err != nil {
		return nil, fail(ctx, q, err)
	}
	return resp, nil
}

// modulePath returns the escaped path below modules/.
func modulePath(module string, u *url.URL) (string, error) {
	if module == "" || module == "." || module == ".." || strings.ContainsAny(module, `/\%`) || !httpguts.ValidHeaderFieldValue(module) {
		return "", fault.New(fault.InvalidArgument, fault.Agent, "not a module name")
	}
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") {
		return "", fault.New(fault.InvalidArgument, fault.Agent, "the path of a module's request must start with /")
	}
	if leadsAway(path) {
		return "", fault.New(fault.InvalidArgument, fault.Agent, "the path of a module's request must not have dots as segments")
	}
	return url.PathEscape(module) + path, nil
}

// leadsAway says that a path has a segment . or .. now or after having been unescaped, however often.
func leadsAway(path string) bool {
	for range maxEscapes {
		for segment := range strings.SplitSeq(strings.ReplaceAll(path, `\`, "/"), "/") {
			// What follows a semicolon or NUL is not part of the segment's name for some servers.
			if end := strings.IndexAny(segment, ";\x00"); end >= 0 {
				segment = segment[:end]
			}
			if segment == "." || segment == ".." {
				return true
			}
		}
		plain, err := url.PathUnescape(path)
		if err != nil { // there is a plain %, which may have been followed by anything
			return strings.Contains(strings.ToLower(path), "%2e")
		}
		if plain == path {
			return false
		}
		path = plain
	}
	return true
}

func moduleBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxModuleBody+1))
	switch {
	case err != nil:
		return nil, fault.Wrap(fault.KindOf(err), fault.Agent, err, "read the request body")
	case len(body) > maxModuleBody:
		return nil, fault.New(fault.ResourceExhausted, fault.Kas, "the request body is bigger than %d bytes", maxModuleBody)
	}
	return body, nil
}

func moduleHeader(from http.Header) http.Header {
	h := from.Clone()
	if h == nil {
		return http.Header{}
	}
	for _, named := range from["Connection"] {
		for name := range strings.SplitSeq(named, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		// GitLab reads an underscore as a dash. Gitlab-* is how GitLab and its parts talk among themselves.
		canonical := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if slices.Contains(notForModules, canonical) || strings.HasPrefix(canonical, "Gitlab-") || strings.HasPrefix(canonical, "X-Forwarded-") {
			delete(h, name)
		}
	}
	return h
}
