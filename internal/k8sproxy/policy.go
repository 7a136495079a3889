package k8sproxy

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// maxBlocked bounds the header names that are remembered as logged: the names are the clusters' choice.
const maxBlocked = 1000

const (
	headerNoSniff = "X-Content-Type-Options"
	headerCSP     = "Content-Security-Policy"
	headerReport  = "Content-Security-Policy-Report-Only"
	// sandboxed makes a page of a cluster that a browser shows powerless: no scripts, no origin, no frames around it.
	sandboxed = "default-src 'none'; sandbox; frame-ancestors 'none'"
)

// neverPasses would let a cluster speak for the host of kas, besides the CORS headers. The last one is the mark that only kas
// itself puts on an answer. No configuration lets these pass.
var neverPasses = names(
	"Set-Cookie", "Set-Cookie2", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", headerUnauthorized,
)

// neverInSession are not for browsers, whatever the configuration says: a redirect would make the browser ask something else
// of the host it shares with GitLab, and the two policies are for kas to set.
var neverInSession = names("Location", headerCSP, headerReport)

// sessionAllowed is what a browser's session gets of a cluster's header, besides sessionPrefixes and what the configuration
// adds. Those of upgrades are here too; Upgrade and Connection themselves are set anew for each hop.
var sessionAllowed = names(
	"Audit-Id", "Cache-Control", "Date", "Etag", "Last-Modified", "Retry-After", headerServer, headerVary, headerVia, "Warning",
	"X-Stream-Protocol-Version",
)

var sessionPrefixes = [...]string{"Content-", "X-Kubernetes-Pf-", "Sec-Websocket-"}

func names(list ...string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, name := range list {
		set[textproto.CanonicalMIMEHeaderKey(name)] = true
	}
	return set
}

// responsePolicy says which headers of a cluster's answer reach the client. Jobs and personal access tokens belong to tools,
// which get nearly all of them. A session belongs to a browser that is logged in to GitLab on the same site: it gets only what
// is known to be harmless, in a sandbox.
type responsePolicy struct {
	extra map[string]bool
	log   *zap.Logger

	// mu guards logged: the names that were logged already.
	mu     sync.Mutex
	logged map[string]bool
}

func newResponsePolicy(extra []string, log *zap.Logger) (*responsePolicy, error) {
	p := &responsePolicy{extra: map[string]bool{}, log: log, logged: map[string]bool{}}
	for _, name := range extra {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("kubernetes proxy: extra_allowed_response_headers: %.64q is not a header name", name)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if neverPasses[name] || neverInSession[name] {
			log.Warn("Response header cannot be allowed by the configuration", zap.String("header", name))
		}
		p.extra[name] = true
	}
	return p, nil
}

// passes takes a canonical name.
func (p *responsePolicy) passes(name string, by access) bool {
	switch {
	case neverPasses[name]:
		return false
	case by != accessSession:
		return true
	case neverInSession[name]:
		return false
	case sessionAllowed[name], p.extra[name]:
		return true
	}
	for _, prefix := range sessionPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// apply adds the cluster's header to what kas has set for the client. kas wins, but for Vary, which is both.
func (p *responsePolicy) apply(h http.Header, status int, cluster http.Header, c credential) {
	var upgrade []string
	if status == http.StatusSwitchingProtocols {
		upgrade = httpgrpc.UpgradeOf(cluster)
	}
	httpgrpc.RemoveHopByHop(cluster)
	for _, name := range corsHeaders {
		cluster.Del(name)
	}
	h.Del(headerServer)
	if c.access == accessSession {
		h.Set(headerNoSniff, "nosniff")
		h.Set(headerCSP, sandboxed)
		delete(cluster, headerNoSniff)
		delete(cluster, headerCSP)
	}
	for name, values := range cluster {
		if !p.passes(name, c.access) {
			p.blocked(name, c)
		} else if name == headerVary {
			h[name] = append(h[name], values...)
		} else if _, ours := h[name]; !ours {
			h[name] = values
		}
	}
	httpgrpc.RestoreUpgrade(h, upgrade)
	h.Add(headerVia, via)
}

// blocked logs a name the first time. Whoever misses a header in an answer finds it there.
func (p *responsePolicy) blocked(name string, c credential) {
	p.mu.Lock()
	known := p.logged[name] || len(p.logged) >= maxBlocked
	if !known {
		p.logged[name] = true
	}
	p.mu.Unlock()
	if !known {
		p.log.Info("Blocked Kubernetes API proxy response header",
			zap.String("header", limited(name)), zap.String("access", string(c.access)), zap.Int64("agent_id", c.agentID))
	}
}
