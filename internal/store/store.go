// Package store is what the replicas of kas share: which agents are connected, which replica holds their tunnels, push events
// and rate limits. It exists so that one process (Memory) and a fleet behind one database keep the same promises, written down
// once as the contract suite of package storetest.
//
// A store outside of the process is not always there. kas never talks to one directly but through a Fallback, which goes on with what
// the process knows and whose calls therefore do not fail.
//
// Every entry of the store ends by itself: a replica that dies takes nothing with it that would stay wrong for longer than the
// time to live it gave. Nothing here grows without bound, whatever agents send.
package store

import (
	"context"
	"time"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

// Bounds of what is kept. They hold for every implementation.
const (
	// MaxConnectionsPerAgent is how many connections of one agent are kept; the one that would expire first gives way.
	MaxConnectionsPerAgent = 1000
	// LastSeenFor is how long it is remembered when an agent was last seen.
	LastSeenFor = 24 * time.Hour
	// EventBuffer is how many push events wait for one subscriber; the oldest gives way.
	EventBuffer = 64
)

// Agents knows the connections that agents announced. Messages that went in or came out are shared: nobody changes them.
type Agents interface {
	// RegisterAgent writes a connection, keyed by agent id and connection id, that is forgotten after ttl. A connection
	// that is already there keeps its connected_at, so that registering again does not look like a new connection.
	RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error
	// UnregisterAgent forgets a connection. It is no error if there is none.
	UnregisterAgent(ctx context.Context, agentID, connectionID int64) error
	// AgentsByID lists the connections of these agents. Unknown agents have none.
	AgentsByID(ctx context.Context, agentIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error)
	// AgentsByProject lists the connections of the agents that these projects configure.
	AgentsByProject(ctx context.Context, projectIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error)
	// AllAgents lists every connection.
	AllAgents(ctx context.Context) ([]*agenttracker.ConnectedAgentInfo, error)
	// CountByVersion counts, for each version, the agents with a connection of that version.
	CountByVersion(ctx context.Context) (map[string]int64, error)
	// LastSeen is when the agent was last known to be there: it registered or unregistered, or a replica found or lost its
	// tunnels; now if a replica holds some. It outlives the connections by LastSeenFor at most and 15 minutes at least.
	LastSeen(ctx context.Context, agentID int64) (time.Time, bool, error)
}

// Tunnels knows which replicas hold tunnels of an agent. A location is the URL under which the other replicas reach one.
type Tunnels interface {
	// AddTunnel says that the replica at url holds tunnels of the agent, until ttl has passed.
	AddTunnel(ctx context.Context, agentID int64, url string, ttl time.Duration) error
	// RefreshTunnels does the same for many agents of one replica.
	RefreshTunnels(ctx context.Context, url string, ttl time.Duration, agentIDs ...int64) error
	// RemoveTunnel says that the replica at url holds no tunnel of the agent any more.
	RemoveTunnel(ctx context.Context, agentID int64, url string) error
	// Tunnels lists the locations of an agent, sorted.
	Tunnels(ctx context.Context, agentID int64) ([]string, error)
	// Watch sends the locations of an agent at once and whenever they change, sorted. Only the newest list waits to be
	// received. The channel is closed after ctx has ended.
	Watch(ctx context.Context, agentID int64) <-chan []string
}

// Events carries push events between the replicas. An event is the full path of the project that was pushed to.
type Events interface {
	// Publish tells every subscriber of every replica. It never waits for one.
	Publish(ctx context.Context, projectPath string) error
	// Subscribe receives what is published from now on. The channel is closed after ctx has ended, or earlier if events may
	// have been missed: subscribe again and look anew. A subscriber with EventBuffer events waiting loses its oldest.
	Subscribe(ctx context.Context) (<-chan string, error)
}

// Limits counts what may happen only so often.
type Limits interface {
	// Allow admits at most limit calls with the same key in one window. Windows are those of the UTC clock (one of a minute is
	// the current minute), so that all replicas agree. Calls that are not admitted do not count. An error means that the
	// store could not be asked; it is no verdict. Memory and Fallback have none: a limit whose store is out of reach is counted
	// in process, for refusing then would lock every agent out.
	Allow(ctx context.Context, key string, limit uint32, window time.Duration) (bool, error)
}

// Refusals knows what GitLab has refused lately, so that one replica need not ask what another one knows.
type Refusals interface {
	// Refuse remembers for ttl that key was refused, and why. A second call replaces the first.
	Refuse(ctx context.Context, key, reason string, ttl time.Duration) error
	// Refused says why a key was refused and for how long that is to be believed, by the clocks of this replica and of the one that
	// was told; 0: nothing is known.
	Refused(ctx context.Context, key string) (reason string, left time.Duration, err error)
}

// Store is everything the replicas share.
type Store interface {
	Agents
	Tunnels
	Events
	Limits
	Refusals
}
