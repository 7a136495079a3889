package config

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestOwnURL(t *testing.T) {
	machine := Machine{
		Addresses: func() ([]net.Addr, error) {
			var all []net.Addr
			for _, text := range []string{"127.0.0.1/8", "10.1.2.3/16", "172.17.0.1/16", "::1/128", "fd00::3/64"} {
				prefix := netip.MustParsePrefix(text)
				all = append(all, &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
			}
			return all, nil
		},
		Outbound: func() (netip.Addr, error) { return netip.MustParseAddr("10.1.2.3"), nil },
	}
	lonely := machine
	lonely.Outbound = func() (netip.Addr, error) { return netip.Addr{}, errors.New("network is unreachable") }
	any4, any6 := &net.TCPAddr{IP: net.IPv4zero, Port: 8155}, &net.TCPAddr{IP: net.IPv6unspecified, Port: 8155}
	loopback, socket := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}, &net.UnixAddr{Name: "/run/kas/private.sock", Net: "unix"}
	for _, tt := range []struct {
		name    string
		address string
		secure  bool
		bound   net.Addr
		machine Machine
		env     map[string]string
		want    string // an error, if there is no "://" in it
		guessed bool
	}{
		{"told", "0.0.0.0:8155", false, any4, machine, map[string]string{envOwnURL: "grpc://kas-0.kas:1"}, "grpc://kas-0.kas:1", false},
		{"told, odd scheme", "0.0.0.0:8155", false, any4, machine, map[string]string{envOwnURL: "x://y"}, "x://y", false},
		{"from the file", "localhost:4711", false, loopback, machine, nil, "grpc://localhost:4711", false},
		{"free port", "127.0.0.1:0", false, loopback, machine, nil, "grpc://127.0.0.1:4711", false},
		{"TLS", "127.0.0.1:0", true, loopback, machine, nil, "grpcs://127.0.0.1:4711", false},
		{"socket", "/run/kas/private.sock", false, socket, machine, nil, "unix:///run/kas/private.sock", false},
		{"socket with TLS", "/run/kas/private.sock", true, socket, machine, nil, "unixs:///run/kas/private.sock", false},
		{"network", "0.0.0.0:8155", false, any4, machine, map[string]string{envOwnCIDR: "10.1.0.0/16"}, "grpc://10.1.2.3:8155", false},
		{"two networks", ":8155", false, any6, machine, map[string]string{envOwnCIDR: "192.168.0.0/16, fd00::/8"}, "grpc://[fd00::3]:8155", false},
		{
			"network, scheme and port", ":8155", true, any6, machine,
			map[string]string{envOwnCIDR: "10.1.0.0/16", envOwnScheme: "grpc", envOwnPort: "99"},
			"grpc://10.1.2.3:99", false,
		},
		{"network and TLS", ":8155", true, any6, machine, map[string]string{envOwnCIDR: "10.1.0.0/16"}, "grpcs://10.1.2.3:8155", false},
		{"network without this machine", ":8155", false, any6, machine, map[string]string{envOwnCIDR: "11.0.0.0/8"}, "it holds 0 []; or set OWN_PRIVATE_API_URL", false},
		{"network with two addresses", ":8155", false, any6, machine, map[string]string{envOwnCIDR: "0.0.0.0/0"}, "it holds 3", false},
		{"no network", ":8155", false, any6, machine, map[string]string{envOwnCIDR: "10.1.2.3"}, "OWN_PRIVATE_API_CIDR must be networks such as", false},
		{"network and a socket", "/s", false, socket, machine, map[string]string{envOwnCIDR: "10.1.0.0/16"}, "OWN_PRIVATE_API_PORT must be set", false},
		{"network, port and a socket", "/s", false, socket, machine, map[string]string{envOwnCIDR: "10.1.0.0/16", envOwnPort: "1"}, "grpc://10.1.2.3:1", false},
		{"any address", "0.0.0.0:8155", false, any4, machine, nil, "grpc://10.1.2.3:8155", true},
		{"any address, short", ":8155", false, any6, machine, nil, "grpc://10.1.2.3:8155", true},
		{"any address of a lonely machine", ":8155", false, any6, lonely, nil, "set environment variable OWN_PRIVATE_API_URL", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, minimal)
			c.File.PrivateApi.Listen.Address = tt.address
			if tt.secure {
				c.File.PrivateApi.Listen.CertificateFile = "/c"
			}
			got, guessed, err := c.OwnURL(func(name string) string { return tt.env[name] }, tt.bound, tt.machine)
			if strings.Contains(tt.want, "://") {
				if err != nil || got != tt.want || guessed != tt.guessed {
					t.Errorf("got %q, guessed %t, %v", got, guessed, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// A machine with a network has an address towards others; one without says why.
func TestThisMachine(t *testing.T) {
	addr, err := ThisMachine().Outbound()
	if (err == nil) != addr.IsValid() {
		t.Errorf("%v, %v", addr, err)
	}
	if list, err := ThisMachine().Addresses(); err != nil || len(list) == 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestStandalone_RedisNeedsPrivateAPI(t *testing.T) {
	const base = "standalone: {repositories_dir: /r}\n"
	wantMistakes(t, base+"redis: {server: {address: a}}",
		"private_api: must be present when redis is: other kas reach the agents of this one there")
	if c := parse(t, base+"private_api: {listen: {authentication_secret_file: /s}}"); len(c.Unsupported) != 1 ||
		!strings.HasPrefix(c.Unsupported[0], "private_api (line 2): has no effect without redis") {
		t.Errorf("%q", c.Unsupported)
	}
	if c := parse(t, base+"redis: {server: {address: a}}\nprivate_api: {listen: {authentication_secret_file: /s}}"); len(c.Unsupported) != 0 {
		t.Errorf("%q", c.Unsupported)
	}
}
