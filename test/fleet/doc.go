// Package fleet runs kas as it is run in earnest: several replicas that share a real Redis, in front of them a TCP balancer that follows
// their readiness, and several agentk, each a process of its own. Between any two of them is a bad link (package badlink), which is
// perfect until a test says otherwise. It stands on package line, which runs the same with one kas.
//
//	clients ── Proxy (balancer) ──┬─ kas ──┬─ PeerLink ── kas-1 …
//	agentk ── Link ── Agents ─────┘        └─ RedisLink ── Redis
package fleet
