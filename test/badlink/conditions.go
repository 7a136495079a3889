package badlink

import (
	"time"
)

// Direction is one of the two ways of a link.
type Direction uint8

// The directions: from who dials to who listens, and back.
const (
	ToServer Direction = iota
	ToClient
)

func (d Direction) opposite() Direction { return 1 - d }

// Conditions are what a link is like. The zero value is a perfect one.
type Conditions struct {
	// RTT is the round trip time that the link adds, half of it each way. Bytes are delayed and keep flowing: bandwidth stays.
	RTT time.Duration
	// BytesPerSecond is the bandwidth of each direction, shared by all connections; 0: no limit.
	BytesPerSecond int
	// DropToServer and DropToClient drop what is sent that way, and the news that a connection has ended. Both together are a black hole.
	// A connection that lost bytes stays silent in that direction for ever. New connections are accepted, and lead nowhere.
	DropToServer, DropToClient bool
	// Refuse: nothing listens; who dials gets ECONNREFUSED.
	Refuse bool
	// IdleTimeout: connections without a byte for that long are forgotten: they lead nowhere from then on, and nobody is told. 0: never.
	IdleTimeout time.Duration
}

// Blackhole swallows everything and says nothing.
var Blackhole = Conditions{DropToServer: true, DropToClient: true}

func (c Conditions) drops(d Direction) bool {
	if d == ToServer {
		return c.DropToServer
	}
	return c.DropToClient
}

const (
	// chunk is the most that one read takes.
	chunk = 32 << 10
	// fastest is the bandwidth, in bytes per second, up to which a delayed link holds nothing up; slack is what may be queued besides.
	fastest = 512 << 20
	slack   = 256 << 10
	// beat is how long a narrow link takes for one write: short enough to look steady.
	beat = 50 * time.Millisecond
)

// queueLimit is how many bytes may be under way in one direction of a connection.
func (c Conditions) queueLimit() int {
	rate, extra := fastest, slack
	if c.BytesPerSecond > 0 {
		rate, extra = c.BytesPerSecond, chunk
	}
	return extra + int(float64(rate)*(c.RTT/2).Seconds())
}

// piece is the most that is written at once.
func (c Conditions) piece() int {
	if c.BytesPerSecond == 0 {
		return chunk
	}
	return max(1, int(float64(c.BytesPerSecond)*beat.Seconds()))
}
