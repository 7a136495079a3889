package k8sproxy

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"gitlab.com/agentk/agentk/internal/fault"
)

// target is what a request is about, without the prefix of the proxy. The host the client named does not matter.
type target struct {
	// path is decoded and starts with a slash.
	path string
	// escaped is the path as the client wrote it, if its meaning is lost by decoding; otherwise empty.
	escaped string
	query   url.Values
}

func badRequest(msg string) *refusal {
	return &refusal{code: http.StatusBadRequest, hop: fault.Client, msg: "Bad request: " + msg}
}

// targetOf reads path and query. What two readers could understand differently is refused.
func (p *Proxy) targetOf(u *url.URL) (target, *refusal) {
	path, ok := strings.CutPrefix(u.Path, p.prefix)
	escaped, same := strings.CutPrefix(u.EscapedPath(), p.escapedPrefix)
	if !ok || !same {
		return target{}, badRequest("URL does not start with expected prefix")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, &refusal{
			code: http.StatusBadRequest, hop: fault.Client, msg: "Bad request: invalid query: " + err.Error(),
			logged: "Bad request: invalid query", // it may hold a CSRF token
		}
	}
	t := target{path: "/" + path, query: query}
	if u.RawPath != "" && !sameSegments(path, escaped) {
		t.escaped = "/" + escaped
	}
	if !validText(t) {
		return target{}, badRequest("path and query must be UTF-8")
	}
	return t, nil
}

// sameSegments says that decoding loses nothing: the escaped path has the same segments as the decoded one, and none that only
// becomes a dot segment by decoding.
func sameSegments(path, escaped string) bool {
	decoded, raw := strings.Split(path, "/"), strings.Split(escaped, "/")
	if len(decoded) != len(raw) {
		return false
	}
	for i := range raw {
		segment, err := url.PathUnescape(raw[i])
		if err != nil || segment != decoded[i] {
			return false
		}
		if segment != raw[i] && (segment == "." || segment == "..") {
			return false
		}
	}
	return true
}

// validText: older agents declare these fields as strings and end the call for anything else.
func validText(t target) bool {
	if !utf8.ValidString(t.path) {
		return false
	}
	for key, values := range t.query {
		if !utf8.ValidString(key) {
			return false
		}
		for _, v := range values {
			if !utf8.ValidString(v) {
				return false
			}
		}
	}
	return true
}
