// Package grpcserver is what the gRPC servers of kas have in common, whoever calls them: the limits of their transport, and metrics that
// they share. Each server adds its own credentials, codec and windows.
package grpcserver

import (
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// MaxMessage bounds a received message, in bytes; the largest frames of the protocols stay well below.
	MaxMessage = 4 << 20
	// MaxHeaderList bounds the metadata of one RPC, in bytes; the library's own default is 16 MiB.
	MaxHeaderList = 64 << 10
	// PingTimeout is how long a ping may stay without an answer.
	PingTimeout = 20 * time.Second

	// Clients ping after 55 s; a stricter floor would cut off those behind eager middleboxes.
	minPingInterval = 20 * time.Second
	// pingAfter keeps connections alive through middleboxes that drop what is idle for a minute.
	pingAfter = 50 * time.Second
	// ageShare and graceShare are the parts of the maximum connection age after which a connection gets its GOAWAY, and after
	// that its end.
	ageShare   = 0.20
	graceShare = 0.65
	// handshakeLimit bounds the HTTP/2 handshake.
	handshakeLimit = 10 * time.Second
)

// Limits are the options of a server whose connections get fixed parts of age to live; 0 means no limit.
func Limits(age time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      share(age, ageShare),
			MaxConnectionAgeGrace: share(age, graceShare),
			Time:                  pingAfter,
			Timeout:               PingTimeout,
		}),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxHeaderListSize(MaxHeaderList),
		grpc.ConnectionTimeout(handshakeLimit),
	}
}

// share is a part of the maximum age; the library takes the largest duration for no limit.
func share(age time.Duration, part float64) time.Duration {
	if age <= 0 {
		return math.MaxInt64
	}
	return max(time.Duration(part*float64(age)), 1)
}
