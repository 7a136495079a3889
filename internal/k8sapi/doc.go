// Package k8sapi performs proxied requests at the agent's own API server, as whoever kas says the request is.
//
// Why a request cannot gain the agent's own power, nor somebody else's:
//
//   - It goes to the API server of the agent's configuration and nowhere else. The requester chooses path and query only;
//     redirects are answers, not orders, and CONNECT does not exist.
//   - It carries one identity from one source: the agent's own configuration (--as), kas, or Impersonate-* headers of the
//     client. Two sources at once are refused, so that none can hide the other.
//   - An identity that cannot be written down exactly is refused: groups without a user name, a value that HTTP would trim or
//     cut, an empty extra key. A header that is lost on the way would turn the request into the agent itself. For the same
//     reason a client may not list Impersonate-* in Connection.
//   - Authorization of the requester, also as a WebSocket subprotocol, is never forwarded, and X-Remote-* never reaches an API
//     server that may trust this agent as a front proxy.
//   - With an impersonation account, requests with an identity from kas use that account's token and nothing else: no client
//     certificate and no token of the agent. The account should be allowed to impersonate and nothing more, so that even a
//     request that lost its identity could do nothing. Without a valid token such requests fail; they never fall back.
package k8sapi
