package plain

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	// headRoom holds the head of most requests.
	headRoom = 2 << 10
	// userAgent is that of net/http, for requests that say nothing.
	userAgent = "Go-http-client/1.1"
)

// appendHead appends the head of a request without a body, as http.Request.Write writes it, but for the order of the header. What would
// end a line is refused, as http.Transport does. An error names no value, and b is returned with it.
func appendHead(b []byte, req *http.Request, host string) ([]byte, error) {
	method, uri := req.Method, req.URL.RequestURI()
	if method == "" {
		method = http.MethodGet
	}
	if !httpguts.ValidHeaderFieldName(method) { // both are tokens
		return b, fmt.Errorf("invalid method %q", method)
	}
	if strings.ContainsFunc(uri, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return b, fmt.Errorf("URL with a control character")
	}
	b = append(append(append(append(b, method...), ' '), uri...), " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", host)
	if agent, ok := req.Header["User-Agent"]; !ok {
		b = appendField(b, "User-Agent", userAgent)
	} else if len(agent) > 0 && agent[0] != "" {
		if !httpguts.ValidHeaderFieldValue(agent[0]) {
			return b, invalidValue("User-Agent")
		}
		b = appendField(b, "User-Agent", agent[0])
	}
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		b = appendField(b, "Content-Length", "0")
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer": // said above, or not at all
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return b, fmt.Errorf("invalid header name %q", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return b, invalidValue(name)
			}
			b = appendField(b, name, value)
		}
	}
	return append(b, "\r\n"...), nil
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, textproto.TrimString(value)...), "\r\n"...)
}

func invalidValue(name string) error { return fmt.Errorf("invalid value of header %q", name) }
