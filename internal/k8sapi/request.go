package k8sapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/version"
)

// prefixes of header names, in canonical form. Every later character counts as well: Impersonate-Extra-*, X-Remote-Group, ...
const (
	impersonatePrefix = "Impersonate-"
	remotePrefix      = "X-Remote-"
	// ownHeaders is how many headers of its own a request gets beside an identity: Via, credentials.
	ownHeaders = 2
)

// prepare returns what is sent to the API server: the same request at the API server's address, without what speaks about
// another connection or another trust. req is not changed.
func (c *Client) prepare(req *http.Request, said *saidExtra) (*http.Request, error) {
	if req.Method == http.MethodConnect || req.Method == http.MethodTrace {
		return nil, refuse("method %s is not supported", req.Method)
	}
	u := &url.URL{Scheme: c.base.Scheme, Host: c.base.Host, Path: req.URL.Path, RawQuery: req.URL.RawQuery}
	if said.escapedPath != "" {
		u.RawPath = said.escapedPath
		if u.EscapedPath() != said.escapedPath { // it does not decode to Path, or is no valid encoding
			return nil, refuse("escaped path does not match the path")
		}
	}
	for _, name := range httpgrpc.ConnectionTokens(req.Header) {
		if strings.HasPrefix(name, impersonatePrefix) {
			return nil, refuse("Connection header lists %s", name)
		}
	}
	out := req.WithContext(req.Context()) // a copy that shares nothing which is changed below
	out.URL, out.Host, out.Header = u, "", make(http.Header, len(req.Header)+len(said.identity)+ownHeaders)
	for name, values := range req.Header {
		if name != "Authorization" && name != "Host" && !strings.HasPrefix(name, remotePrefix) {
			out.Header[name] = slices.Clip(values)
		}
	}
	upgrade := httpgrpc.UpgradeOf(out.Header)
	httpgrpc.RemoveHopByHop(out.Header)
	httpgrpc.RemoveBearerSubprotocol(out.Header)
	httpgrpc.RestoreUpgrade(out.Header, upgrade)
	out.Header["Via"] = append(out.Header["Via"], "gRPC/1.0 "+version.Agentk())
	return out, nil
}
