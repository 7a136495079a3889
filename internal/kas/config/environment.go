package config

import (
	"errors"
	"fmt"
	"net/url"
)

// Environment variables that say under which address other replicas reach the private API of this one.
const (
	envOwnURL  = "OWN_PRIVATE_API_URL"
	envOwnCIDR = "OWN_PRIVATE_API_CIDR"
	envOwnHost = "OWN_PRIVATE_API_HOST"
)

// CheckEnvironment finds environment variables that do not fit the configuration. getenv is os.Getenv outside of tests.
func (c *Config) CheckEnvironment(getenv func(string) string) error {
	listen := c.File.GetPrivateApi().GetListen()
	if listen == nil {
		return nil
	}
	var found []error
	if listen.GetCertificateFile() != "" && getenv(envOwnHost) == "" {
		found = append(found, fmt.Errorf("environment variable %s must name this kas, since private_api.listen has a certificate", envOwnHost))
	}
	own := getenv(envOwnURL)
	if own != "" && getenv(envOwnCIDR) != "" {
		found = append(found, fmt.Errorf("environment variables %s and %s must not both be set", envOwnURL, envOwnCIDR))
	}
	if own != "" {
		if u, err := url.Parse(own); err != nil || u.Scheme == "" {
			found = append(found, fmt.Errorf("environment variable %s must be a URL such as grpc://10.0.0.1:8155", envOwnURL))
		}
	}
	return errors.Join(found...)
}
