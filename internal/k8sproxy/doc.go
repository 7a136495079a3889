// Package k8sproxy is the door of kas for Kubernetes clients: an HTTP server that turns a credential into an agent and an
// identity, and passes the request on through the agent's stream.
//
// The way of a request, in this order (handler.go): origin, preflight, path prefix and query (target.go), credential
// (credential.go), authorization (authorize.go, cache.go), identity (package identity), header hygiene (header.go), route,
// exchange (forward.go). Everything that fails before the response header is a Kubernetes Status (status.go); after it, the
// connection is aborted, so that no answer looks complete that is not.
//
// What a client can not do:
//
//   - Reach another agent than its credential allows. The agent id is parsed once, from the credential, and the authorization
//     answer must list that very id. Host, absolute request URI, routing headers of kas and forwarded headers have no say.
//   - Become somebody else. With an identity from kas any Impersonate-* header refuses the request, also one that is only
//     listed in Connection, whose removal would change who the request is. X-Remote-* never pass.
//   - Make two hops disagree about a request. Queries that cannot be parsed are refused, a path whose escaped form means
//     something else than its decoded one only travels to an agent that promises to keep it, hop-by-hop headers end here.
//   - Leave credentials behind. Authorization, bearer tokens among WebSocket subprotocols, cookies and CSRF tokens (header and
//     query) are removed, and kas sends no token of its own to the agent. Logs carry neither queries nor what a malformed
//     credential contained.
//
// What a cluster can not do: speak for the host name of kas, which may share a site with GitLab. CORS headers, cookies, and
// headers that bind a whole host are dropped, and so is the mark that only kas puts on its own 401. A browser's session gets
// headers by an allow-list only, and the answer in a sandbox (policy.go): no page of a cluster acts as a page of GitLab.
package k8sproxy
