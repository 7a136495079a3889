package gitaly

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const (
	schemes       = "tcp://, tls://, unix:, dns: or dns+tls:"
	defaultPort   = "443"
	nameServer    = "53"
	networkSocket = "unix"
)

// endpoint is a parsed address of a Gitaly server.
type endpoint struct {
	// secure: TLS, verified for the name host.
	secure     bool
	host, port string
	// socket is a path; host and port are then empty.
	socket string
	// resolve: all addresses of the host are used in turn, and looked up at server ("" for the system's name servers).
	resolve bool
	server  string
}

// parseAddress understands all forms that GitLab hands out. Its errors do not quote what may hold a password.
func parseAddress(text string) (endpoint, error) {
	scheme, rest, found := strings.Cut(text, ":")
	if !found {
		return endpoint{}, fmt.Errorf("the Gitaly address has no scheme: it must begin with %s", schemes)
	}
	switch strings.ToLower(scheme) {
	case "tcp":
		return parseHostPort(rest, false)
	case "tls":
		return parseHostPort(rest, true)
	case "unix":
		return parseSocket(rest)
	case "dns":
		return parseDNS(rest, false)
	case "dns+tls":
		return parseDNS(rest, true)
	default:
		return endpoint{}, fmt.Errorf("the Gitaly address has an unknown scheme: it must begin with %s", schemes)
	}
}

func parseHostPort(rest string, secure bool) (endpoint, error) {
	u, err := url.Parse("tcp:" + rest)
	switch {
	case err != nil || !strings.HasPrefix(rest, "//"):
		return endpoint{}, errors.New("the Gitaly address is not a URL of the form tcp://host:port or tls://host:port")
	case u.User != nil:
		return endpoint{}, errors.New("the Gitaly address must not contain a user name or password")
	case u.Hostname() == "":
		return endpoint{}, errors.New("the Gitaly address has no host")
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(rest, "#"):
		return endpoint{}, errors.New("the Gitaly address must end with the port, without a path")
	case u.Port() == "":
		return endpoint{}, errors.New("the Gitaly address has no port")
	}
	if err := checkPort(u.Port()); err != nil {
		return endpoint{}, err
	}
	return endpoint{secure: secure, host: u.Hostname(), port: u.Port()}, nil
}

// parseSocket takes the path after "unix:" as it is: unix:/path and unix:///path mean the same to the system.
func parseSocket(rest string) (endpoint, error) {
	if !strings.HasPrefix(rest, "/") {
		return endpoint{}, errors.New("the Gitaly address unix: needs an absolute path")
	}
	path := "/" + strings.TrimLeft(rest, "/")
	if path == "/" || strings.ContainsRune(path, 0) {
		return endpoint{}, errors.New("the Gitaly address unix: has no usable path")
	}
	return endpoint{socket: path}, nil
}

// parseDNS reads [//[server[:port]]/]host[:port].
func parseDNS(rest string, secure bool) (endpoint, error) {
	server, target := "", rest
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		var slash bool
		server, target, slash = strings.Cut(after, "/")
		if !slash {
			return endpoint{}, errors.New("the Gitaly address names only a name server: use dns:host:port or dns://server/host:port")
		}
	}
	if strings.ContainsAny(rest, "@?#") || strings.Contains(target, "/") {
		return endpoint{}, errors.New("the Gitaly address is not of the form dns:host:port or dns://server/host:port")
	}
	if target == "" {
		return endpoint{}, errors.New("the Gitaly address has no host")
	}
	host, port, err := hostAndPort(target, defaultPort)
	if err != nil {
		return endpoint{}, err
	}
	if server != "" {
		serverHost, serverPort, err := hostAndPort(server, nameServer)
		if err != nil {
			return endpoint{}, fmt.Errorf("name server: %w", err)
		}
		server = net.JoinHostPort(serverHost, serverPort)
	}
	return endpoint{secure: secure, host: host, port: port, resolve: true, server: server}, nil
}

// hostAndPort splits host[:port]; an empty host is this machine.
func hostAndPort(text, otherwise string) (string, string, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return ip.String(), otherwise, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port, err = net.SplitHostPort(text + ":" + otherwise)
	}
	switch {
	case err != nil:
		return "", "", errors.New("the Gitaly address has no host and port that can be told apart")
	case port == "":
		return "", "", errors.New("the Gitaly address ends with a colon: the port is missing")
	case host == "":
		host = "localhost"
	}
	return host, port, checkPort(port)
}

func checkPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return errors.New("the Gitaly address: port must be between 1 and 65535")
	}
	return nil
}

func (e endpoint) hostPort() string { return net.JoinHostPort(e.host, e.port) }
