package redis

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports come from below the range that Linux gives to outgoing connections, so that no client takes one by accident while its server
// is down between two starts.
const (
	firstPort = 20000
	lastPort  = 30000
)

// given are the ports that this process has used: a server that is down gets its port back, and clients of one that is gone for good
// never reach another test's.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// freePort returns a port that nothing on this machine listens on now, and that it has not returned before.
func freePort() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if given.ports == nil {
			given.ports = map[int]bool{}
		}
		given.ports[port] = true
		return port, listener.Close()
	}
	return 0, errors.New("no free port on this machine")
}
