package k8sproxy

import (
	"net/http"
	"slices"
	"strings"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/version"
)

const (
	headerServer      = "Server"
	headerVia         = "Via"
	impersonatePrefix = "Impersonate-"
)

// droppedRequest never leaves kas: credentials, and what only concerns the way to kas. The last two claim another origin of the request:
// an API server writes X-Real-Ip into its audit log.
var droppedRequest = [...]string{headerAuthorization, headerCookie, headerAgentID, headerCSRF, "Host", "Forwarded", "X-Real-Ip"}

// droppedRequestPrefixes are headers that some servers behind a proxy believe. The first is the proof of identity of the
// Kubernetes front-proxy protocol, the second would claim another origin of the request, the third is the routing of kas.
var droppedRequestPrefixes = [...]string{"X-Remote-", "X-Forwarded-", "Kas-Hop-"}

// impersonates looks for impersonation headers of the client: sent, and named in Connection, which would remove them here and
// make the request somebody else's.
func impersonates(h http.Header) (bool, bool) {
	sent, listed := false, false
	for name := range h {
		sent = sent || isImpersonation(name)
	}
	for _, name := range httpgrpc.ConnectionTokens(h) {
		listed = listed || isImpersonation(name)
	}
	return sent, listed
}

func isImpersonation(name string) bool {
	return len(name) >= len(impersonatePrefix) && strings.EqualFold(name[:len(impersonatePrefix)], impersonatePrefix)
}

// requestHeader returns the header that goes to the agent. It shares values with that of the client, and is only read.
func requestHeader(client http.Header) http.Header {
	h := make(http.Header, len(client)+1)
	for name, values := range client {
		if !hasPrefix(name, droppedRequestPrefixes[:]) {
			h[name] = values
		}
	}
	upgrade := httpgrpc.UpgradeOf(h)
	httpgrpc.RemoveHopByHop(h)
	for _, name := range droppedRequest {
		delete(h, name)
	}
	httpgrpc.RemoveBearerSubprotocol(h)
	httpgrpc.RestoreUpgrade(h, upgrade)
	h[headerVia] = append(slices.Clip(h[headerVia]), via)
	return h
}

func hasPrefix(name string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// product is how kas names itself, via in requests and answers that pass it.
var (
	product = version.Kas()
	via     = "gRPC/1.0 " + product
)
