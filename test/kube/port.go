package kube

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports come from below the range that Linux gives to outgoing connections, so that a busy test cannot take one by accident between our
// choice and the program's start. kube-apiserver and etcd accept no port 0.
const (
	firstPort = 20000
	lastPort  = 32000
)

// given are the ports that this process was given: two control planes never wait for the same one.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// freePorts returns n different ports that nothing on this machine listens on now, and that it has not returned before.
func freePorts(n int) ([]int, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer listener.Close()
		given.ports[port] = true
		ports = append(ports, port)
	}
	return nil, errors.New("no free port on this machine")
}
