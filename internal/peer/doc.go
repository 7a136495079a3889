// Package peer is the way between two replicas of kas: the private API. A kas that has a request for an agent it does not hold
// opens a stream of the agent's method at the kas that does, and both pass raw frames on from then on.
//
//	kas with the request (Pool)            kas with the agent (Server)
//	metadata: agent id, extensions
//	                                       [NoTunnel]     no stream of the agent is free, waiting for one
//	                                       TunnelReady
//	StartStreaming
//	request messages, half-close
//	                                       Header, Message*, Trailer, [Error]: the agent's frames as they came
//
// There is one hop at most: a Server looks into its own registry and nowhere else, so that no request can go round in circles.
// Nothing has been asked of the agent before StartStreaming, so that whoever has the request may ask several replicas and take
// the first.
//
// Between replicas that both know it, requests that would be sent without asking go down streams that serve one after the other (a
// series): setting a stream up costs more than a small request does.
//
//	kas with the request (Turn)            kas with the agent (turns)
//	RequestInfo, Message*, [CloseSend]
//	[Message*, CloseSend]
//	                                       NoTunnel       not begun, and the end of the series
//	                                       [TunnelReady], Message*, Trailer or Error
//	RequestInfo ...
//
// A series that ends with OK before a word about a request has not begun it. It is given up when a request does not end in order,
// when its token expires and when the replica drains.
//
// Callers prove with a token (JWT) that they have the secret that the replicas share. The token ends here: what an agent is told
// beside a request is on a list of names, and credentials are not on it.
package peer

import "google.golang.org/protobuf/encoding/protowire"

// Names of the metadata that says where a request goes. They are read at the private API only and never travel further.
const (
	metaAgentID = "kas-hop-routing-agent-id"
	// metaRequire, ours, lists extensions ("service/method") that the agent must have announced.
	metaRequire = "kas-hop-agentk-require"
	// metaEager, ours, stands for StartStreaming: the request follows at once. A kas that has no stream free at this moment says
	// NoTunnel and ends the call with OK, without having asked anything of the agent; otherwise it says TunnelReady with the
	// agent's first frame, or when much of the request has come.
	metaEager = "kas-hop-agentk-eager"
	// metaSeries, ours, in the header of an answer: this kas serves series.
	metaSeries = "kas-hop-agentk-series"
)

// The method that serves a series.
const (
	seriesService = "agentk.extensions.PrivateApi"
	seriesMethod  = "Series"
	seriesPath    = "/" + seriesService + "/" + seriesMethod
)

// Members of GatewayKasResponse. Those between them have the numbers of the agent's own frames.
const (
	memberReady    protowire.Number = 1
	memberNoTunnel protowire.Number = 6
)

// Claims of the token.
const (
	issuer   = "gitlab-kas"
	audience = "gitlab-kas"
)

// Request says which stream of which agent is wanted.
type Request struct {
	AgentID int64
	// Service and Method name what is called.
	Service, Method string
	// Require lists extensions ("service/method") that the agent must have announced.
	Require []string
	// Meta is sent to the agent. It must hold no credential.
	Meta map[string][]string
	// Eager: there is no Start, and Send may come before Wait. The other replica begins at once or refuses.
	Eager bool
}
