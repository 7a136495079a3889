package line

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports come from below the range that Linux gives to outgoing connections, so that no client takes one by accident while its daemon is
// down between two starts.
const (
	firstPort = 12000
	lastPort  = 20000
)

// given are the ports that this process was given: two daemons of it never wait for the same one, also when neither runs yet.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// FreePorts returns n different ports that nothing on this machine listens on now, and that it has not returned before.
func FreePorts(n int) ([]string, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	var ports []string
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		number := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[number] {
			continue
		}
		port := strconv.Itoa(number)
		listener, err := net.Listen("tcp", net.JoinHostPort("", port))
		if err != nil {
			continue
		}
		defer listener.Close()
		given.ports[number] = true
		ports = append(ports, port)
	}
	return nil, errors.New("no free port on this machine")
}
