package kasdial

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// defaultPorts has every scheme of a kas address.
var defaultPorts = map[string]string{"grpc": "80", "grpcs": "443", "ws": "80", "wss": "443"}

const schemes = "grpc://, grpcs://, ws:// or wss://"

// parseAddress checks a kas address. Its errors quote the address only when that cannot hold a password.
func parseAddress(address string) (*url.URL, error) {
	if address == "" {
		return nil, errors.New("the kas address is empty")
	}
	if strings.Contains(address, "@") {
		return nil, errors.New("the kas address must not contain a user name or password")
	}
	if !strings.Contains(address, "://") {
		return nil, fmt.Errorf("kas address %q has no scheme: use %s", address, schemes)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("kas address %q is not a URL", address)
	}
	if _, ok := defaultPorts[u.Scheme]; !ok {
		return nil, fmt.Errorf("kas address %q has the unknown scheme %q: use %s", address, u.Scheme, schemes)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("kas address %q has no host", address)
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("kas address %q has a fragment", address)
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("kas address %q: port must be between 1 and 65535", address)
		}
	}
	return u, nil
}

// isWebSocket says whether gRPC travels inside WebSocket.
func isWebSocket(u *url.URL) bool { return u.Scheme == "ws" || u.Scheme == "wss" }

// hostPort is the address with the scheme's default port made explicit.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
