package kasdial

import (
	"crypto/tls"
	"net/url"
)

// ParseAddress checks a kas address as New does, for who wants to look at the way there step by step. Its errors quote the address only
// when that cannot hold a password.
func ParseAddress(address string) (*url.URL, error) { return parseAddress(address) }

// TLSConfig is what New verifies kas by.
func TLSConfig(cfg Config) (*tls.Config, error) { return tlsConfig(cfg) }
