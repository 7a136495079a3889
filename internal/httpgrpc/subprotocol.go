package httpgrpc

import (
	"net/http"
	"net/textproto"
	"strings"
)

const (
	headerSubprotocol = "Sec-Websocket-Protocol"
	// bearerSubprotocol begins a subprotocol that API servers read as a bearer token, for the sake of browsers.
	bearerSubprotocol = "base64url.bearer.authorization.k8s.io."
)

// RemoveBearerSubprotocol removes credentials that came as WebSocket subprotocols, as the Authorization header is removed. The other
// subprotocols stay in their order. Values of h may be shared; they are replaced, not changed.
func RemoveBearerSubprotocol(h http.Header) {
	values := h[headerSubprotocol]
	if !strings.Contains(strings.Join(values, ","), bearerSubprotocol) {
		return
	}
	var rest []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); !strings.HasPrefix(name, bearerSubprotocol) {
				rest = append(rest, name)
			}
		}
	}
	delete(h, headerSubprotocol)
	if len(rest) > 0 {
		h[headerSubprotocol] = []string{strings.Join(rest, ", ")}
	}
}
