package redis

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports come from below the range that Linux gives to outgoing connections, so that no client takes one by accident while its server
// is down between two starts.
const (
	firstPort = 20000
	lastPort  = 30000
)

// freePort returns a port that nothing on this machine listens on now. Somebody may take it before the server does: see portTaken.
func freePort() (int, error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, listener.Close()
	}
	return 0, errors.New("no free port on this machine")
}
