package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Environment variables that say under which address other replicas reach the private API of this one.
const (
	envOwnURL    = "OWN_PRIVATE_API_URL"
	envOwnCIDR   = "OWN_PRIVATE_API_CIDR"
	envOwnScheme = "OWN_PRIVATE_API_SCHEME"
	envOwnPort   = "OWN_PRIVATE_API_PORT"
	// EnvOwnHost names the variable with the name in the certificates of all replicas.
	EnvOwnHost = "OWN_PRIVATE_API_HOST"
)

// CheckEnvironment finds environment variables that do not fit the configuration. getenv is os.Getenv outside of tests.
func (c *Config) CheckEnvironment(getenv func(string) string) error {
	listen := c.File.GetPrivateApi().GetListen()
	if listen == nil {
		return nil
	}
	var found []error
	if listen.GetCertificateFile() != "" && getenv(EnvOwnHost) == "" {
		found = append(found, fmt.Errorf("environment variable %s must name this kas, since private_api.listen has a certificate", EnvOwnHost))
	}
	own := getenv(envOwnURL)
	if own != "" && getenv(envOwnCIDR) != "" {
		found = append(found, fmt.Errorf("environment variables %s and %s must not both be set", envOwnURL, envOwnCIDR))
	}
	if listen.GetCertificateFile() != "" && strings.HasPrefix(own, "unix:") {
		found = append(found, fmt.Errorf("environment variable %s must start with unixs, since private_api.listen has a certificate", envOwnURL))
	}
	if own != "" {
		if u, err := url.Parse(own); err != nil || u.Scheme == "" {
			found = append(found, fmt.Errorf("environment variable %s must be a URL such as grpc://10.0.0.1:8155", envOwnURL))
		}
	}
	if scheme := getenv(envOwnScheme); scheme != "" && scheme != "grpc" && scheme != "grpcs" {
		found = append(found, fmt.Errorf("environment variable %s must be grpc or grpcs", envOwnScheme))
	}
	if port := getenv(envOwnPort); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			found = append(found, fmt.Errorf("environment variable %s must be a port, 1 to 65535", envOwnPort))
		}
	}
	return errors.Join(found...)
}

// Machine is what OwnURL asks of the machine.
type Machine struct {
	// Addresses are those of all interfaces.
	Addresses func() ([]net.Addr, error)
	// Outbound is the address that the machine uses towards others.
	Outbound func() (netip.Addr, error)
}

// ThisMachine asks the kernel.
func ThisMachine() Machine {
	return Machine{Addresses: net.InterfaceAddrs, Outbound: outbound}
}

// outbound asks the routing table. Connecting a datagram socket sends nothing; the addresses are for documentation.
func outbound() (netip.Addr, error) {
	var errs []error
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", far)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_ = conn.Close()
		if local, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return local.AddrPort().Addr().Unmap(), nil
		}
	}
	return netip.Addr{}, errors.Join(errs...)
}

// OwnURL is where other replicas reach the private API of this one, which listens at bound. guessed says that nobody has told:
// the listener takes any address, and the URL has the one that this machine uses towards others.
func (c *Config) OwnURL(getenv func(string) string, bound net.Addr, machine Machine) (own string, guessed bool, err error) {
	if own := getenv(envOwnURL); own != "" {
		return own, false, nil
	}
	scheme, port := getenv(envOwnScheme), getenv(envOwnPort)
	if scheme == "" {
		scheme = "grpc"
		if c.File.GetPrivateApi().GetListen().GetCertificateFile() != "" {
			scheme = "grpcs"
		}
	}
	tcp, _ := bound.(*net.TCPAddr)
	if port == "" && tcp != nil {
		port = strconv.Itoa(tcp.Port)
	}
	if cidr := getenv(envOwnCIDR); cidr != "" {
		if port == "" {
			return "", false, fmt.Errorf("environment variable %s must be set with %s, since private_api.listen is a unix socket", envOwnPort, envOwnCIDR)
		}
		addr, err := addressIn(cidr, machine)
		if err != nil {
			return "", false, err
		}
		return scheme + "://" + net.JoinHostPort(addr.String(), port), false, nil
	}
	if tcp == nil {
		if scheme == "grpcs" {
			return "unixs://" + bound.String(), false, nil
		}
		return "unix://" + bound.String(), false, nil
	}
	host, _, err := net.SplitHostPort(c.File.GetPrivateApi().GetListen().GetAddress())
	if err == nil && host != "" && !tcp.IP.IsUnspecified() {
		return scheme + "://" + net.JoinHostPort(host, port), false, nil
	}
	addr, err := machine.Outbound()
	if err != nil {
		return "", false, fmt.Errorf("private_api.listen takes any address, and this machine has none towards others: set environment variable %s, "+
			"for example to grpc://10.0.0.1:8155, or %s to the network of the replicas: %w", envOwnURL, envOwnCIDR, err)
	}
	return scheme + "://" + net.JoinHostPort(addr.String(), port), true, nil
}

// addressIn finds the one address of this machine that is in one of the networks, separated by commas.
func addressIn(cidrs string, machine Machine) (netip.Addr, error) {
	var networks []netip.Prefix
	for text := range strings.SplitSeq(cidrs, ",") {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return netip.Addr{}, fmt.Errorf("environment variable %s must be networks such as 10.0.0.0/8, separated by commas: %w", envOwnCIDR, err)
		}
		networks = append(networks, network.Masked())
	}
	all, err := machine.Addresses()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var found []netip.Addr
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			continue
		}
		addr := prefix.Addr().Unmap()
		for _, network := range networks {
			if network.Contains(addr) {
				found = append(found, addr)
				break
			}
		}
	}
	if len(found) != 1 {
		return netip.Addr{}, fmt.Errorf("environment variable %s must hold exactly one address of this machine, it holds %d %v; or set %s",
			envOwnCIDR, len(found), found, envOwnURL)
	}
	return found[0], nil
}
