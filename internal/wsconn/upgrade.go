package wsconn

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/zap"
)

// serverReadBuffer takes a control frame, no more: kas holds one per agent, and the link below reads ahead.
const serverReadBuffer = 128

// wrongSubprotocol is the reason given to a peer that does not offer ours.
const wrongSubprotocol = "the client must offer the subprotocol " + Subprotocol

// upgrade answers one HTTP/1.1 request on any path. Authorization is not looked at: every RPC inside carries its own.
func (m *Mux) upgrade(w http.ResponseWriter, r *http.Request) {
	l := r.Context().Value(linkKey{}).(*link)
	// The request has come; the HTTP server's own timeouts take over.
	if err := l.setEnd(time.Time{}); err != nil {
		return
	}
	header := w.Header()
	if m.cfg.Server != "" {
		header.Set("Server", m.cfg.Server)
	}
	if code, text := m.unacceptable(r, header); code != 0 {
		http.Error(w, text, code)
		return
	}
	upgrader := websocket.Upgrader{
		HandshakeTimeout: m.cfg.PreambleTimeout,
		ReadBufferSize:   serverReadBuffer,
		WriteBufferSize:  writeBuffer,
		WriteBufferPool:  &writeBuffers,
		CheckOrigin:      func(*http.Request) bool { return true }, // checked above
	}
	answer := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}
	// The library would look at the first line of the header only.
	if hasToken(r.Header, "Sec-Websocket-Protocol", Subprotocol) {
		answer.Set("Sec-Websocket-Protocol", Subprotocol)
	}
	if m.cfg.Server != "" {
		answer.Set("Server", m.cfg.Server)
	}
	ws, err := upgrader.Upgrade(w, r, answer)
	if err != nil {
		m.cfg.Log.Debug("WebSocket upgrade failed", zap.String("remote", r.RemoteAddr), zap.Error(err))
		return
	}
	l.release()
	l.readAhead()
	conn := newConn(ws, l)
	switch {
	case ws.Subprotocol() != Subprotocol:
		_ = conn.closeWith(websocket.CloseProtocolError, wrongSubprotocol)
	case !m.grpc.put(conn):
		_ = conn.closeWith(websocket.CloseGoingAway, "Shutting down")
	}
}

// unacceptable says with what status and text to refuse r, and sets the headers that go with it; 0 means that r is fine.
func (m *Mux) unacceptable(r *http.Request, header http.Header) (code int, text string) {
	switch {
	case !r.ProtoAtLeast(1, 1), !hasToken(r.Header, "Connection", "upgrade"), !hasToken(r.Header, "Upgrade", "websocket"):
		header.Set("Connection", "Upgrade")
		header.Set("Upgrade", "websocket")
		return http.StatusUpgradeRequired, m.lost()
	case r.Method != http.MethodGet:
		header.Set("Allow", http.MethodGet)
		return http.StatusMethodNotAllowed, "A WebSocket handshake must be a GET request."
	case !hasToken(r.Header, "Sec-Websocket-Version", "13"):
		header.Set("Sec-WebSocket-Version", "13")
		return http.StatusBadRequest, "Only WebSocket version 13 is supported."
	case !validKey(r.Header.Get("Sec-Websocket-Key")):
		return http.StatusBadRequest, "The Sec-WebSocket-Key header is missing or not 16 bytes of Base64."
	case !sameOrigin(r):
		return http.StatusForbidden, "The Origin header does not match the Host header."
	}
	return 0, ""
}

// lost is the body for clients that are not agents. Some releases of kubectl drop the path of the server URL and end up here.
func (m *Mux) lost() string {
	where := "under its own URL, by default at the path /k8s-proxy/"
	if m.cfg.KubernetesAPI != "" {
		where = "at " + m.cfg.KubernetesAPI
	}
	return "This is the endpoint for agents (gRPC inside WebSocket), a request without a WebSocket upgrade has no answer here. " +
		"The Kubernetes API is served elsewhere, " + where + ". " +
		"If kubectl 1.27.0 or 1.27.1 brought you here, upgrade it or use --validate=false; " +
		"if an agent did, a proxy on the way removes the headers Upgrade and Connection."
}

// hasToken says whether a comma-separated header contains a token, in any case of letters.
func hasToken(header http.Header, name, token string) bool {
	for _, line := range header[name] {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// sameOrigin protects nobody's cookies, there are none; it keeps web pages from knocking on an agent port they happen to reach.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// validKey says whether the client's nonce has its 16 bytes.
func validKey(key string) bool {
	nonce, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	return err == nil && len(nonce) == 16
}
