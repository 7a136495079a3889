package kube

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports come from below the range that Linux gives to outgoing connections, so that a busy test cannot take one by accident between our
// choice and the program's start. kube-apiserver and etcd accept no port 0.
const (
	firstPort = 20000
	lastPort  = 32000
)

// freePorts returns n different ports that nothing on this machine listens on now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer listener.Close()
		ports = append(ports, port)
	}
	return nil, errors.New("no free port on this machine")
}
