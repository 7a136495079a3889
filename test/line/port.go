package line

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports come from below the range that Linux gives to outgoing connections, so that no client takes one by accident while its daemon is
// down between two starts.
const (
	firstPort = 12000
	lastPort  = 20000
)

// FreePorts returns n different ports that nothing on this machine listens on now.
func FreePorts(n int) ([]string, error) {
	var ports []string
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := strconv.Itoa(firstPort + rand.IntN(lastPort-firstPort))
		listener, err := net.Listen("tcp", net.JoinHostPort("", port))
		if err != nil {
			continue
		}
		defer listener.Close()
		ports = append(ports, port)
	}
	return nil, errors.New("no free port on this machine")
}
