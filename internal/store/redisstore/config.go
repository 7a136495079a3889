package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/kascfg"
)

const (
	defaultDialTimeout  = 5 * time.Second
	defaultWriteTimeout = 3 * time.Second
	defaultKeyPrefix    = "gitlab-kas"
	// defaultPort is added to addresses without one, those of sentinels included.
	defaultPort = "6379"
	// maxCallTimeout bounds one call whatever the file says: callers wait for it.
	maxCallTimeout = 5 * time.Second
)

// Config configures a Store.
type Config struct {
	// File is the section redis of the configuration file; required.
	File *kascfg.RedisCF
	// Log gets changes of the state of Redis; nil means none.
	Log *zap.Logger
	// Registerer gets the metrics; nil means no metrics.
	Registerer prometheus.Registerer
	// ProbeEvery is how often Redis is asked how it does while all is well; 0 means 5 seconds.
	ProbeEvery time.Duration
	// Now is the clock that entries expire by; nil means time.Now.
	Now func() time.Time
}

// connector makes connections as the configuration says. Password files are read anew for each connection, byte by byte, so that a
// changed password needs no restart.
type connector struct {
	file      *kascfg.RedisCF
	tls       *tls.Config // nil means none
	sentinel  *tls.Config
	sentinels []string
}

func newClient(f *kascfg.RedisCF) (redis.UniversalClient, error) {
	c := &connector{file: f}
	var err error
	if c.tls, err = clientTLS(f.GetTls()); err != nil {
		return nil, fmt.Errorf("redis.tls: %w", err)
	}
	if _, _, err := c.credentials(context.Background()); err != nil {
		return nil, err
	}
	switch {
	case f.GetServer() != nil:
		return redis.NewClient(c.server()), nil
	case f.GetSentinel() != nil:
		return c.failover()
	case f.GetCluster() != nil:
		return redis.NewClusterClient(c.cluster()), nil
	}
	return nil, errors.New("redis: one of server, sentinel, cluster is required")
}

func (c *connector) credentials(context.Context) (username, password string, err error) {
	password, err = readPassword("redis.password_file", c.file.GetPasswordFile())
	return c.file.GetUsername(), password, err
}

func readPassword(key, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return string(content), nil
}

func (c *connector) server() *redis.Options {
	o := &redis.Options{
		Network:                    "tcp",
		Addr:                       c.file.GetServer().GetAddress(),
		Dialer:                     c.dial,
		CredentialsProviderContext: c.credentials,
		DB:                         int(c.file.GetDatabaseIndex()),
		MaxRetries:                 -1,
		DialTimeout:                dialTimeout(c.file),
		DialerRetries:              1,
		ReadTimeout:                callTimeout(c.file),
		WriteTimeout:               callTimeout(c.file),
		ContextTimeoutEnabled:      true,
		PipelinePoolSize:           -1,
		MaintNotificationsConfig:   &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if c.file.GetNetwork() == "unix" {
		o.Network = "unix"
	} else {
		o.Addr = withPort(o.Addr)
	}
	return o
}

func (c *connector) failover() (redis.UniversalClient, error) {
	s := c.file.GetSentinel()
	var err error
	if c.sentinel, err = clientTLS(s.GetTls()); err != nil {
		return nil, fmt.Errorf("redis.sentinel.tls: %w", err)
	}
	password, err := readPassword("redis.sentinel.sentinel_password_file", s.GetSentinelPasswordFile())
	if err != nil {
		return nil, err
	}
	for _, address := range s.GetAddresses() {
		c.sentinels = append(c.sentinels, withPort(address))
	}
	o := &redis.FailoverOptions{
		MasterName:                 s.GetMasterName(),
		SentinelAddrs:              slices.Clone(c.sentinels), // the library shuffles its own
		SentinelPassword:           password,
		Dialer:                     c.dial,
		CredentialsProviderContext: c.credentials,
		DB:                         int(c.file.GetDatabaseIndex()),
		MaxRetries:                 -1,
		DialTimeout:                dialTimeout(c.file),
		DialerRetries:              1,
		ReadTimeout:                callTimeout(c.file),
		WriteTimeout:               callTimeout(c.file),
		ContextTimeoutEnabled:      true,
		PipelinePoolSize:           -1,
	}
	if password != "" {
		o.SentinelUsername = c.file.GetUsername()
	}
	return redis.NewFailoverClient(o), nil
}

func (c *connector) cluster() *redis.ClusterOptions {
	o := &redis.ClusterOptions{
		Dialer:                     c.dial,
		CredentialsProviderContext: c.credentials,
		MaxRetries:                 -1,
		DialTimeout:                dialTimeout(c.file),
		DialerRetries:              1,
		ReadTimeout:                callTimeout(c.file),
		WriteTimeout:               callTimeout(c.file),
		ContextTimeoutEnabled:      true,
		PipelinePoolSize:           -1,
		MaintNotificationsConfig:   &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	for _, address := range c.file.GetCluster().GetAddresses() {
		o.Addrs = append(o.Addrs, withPort(address))
	}
	return o
}

// dial connects to a data server, or to a sentinel if the address is one of those in the configuration: sentinels have their own TLS.
func (c *connector) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout(c.file), KeepAlive: 15 * time.Second}
	config := c.tls
	if slices.Contains(c.sentinels, address) {
		config = c.sentinel
	}
	if config == nil {
		return dialer.DialContext(ctx, network, address)
	}
	config = config.Clone()
	// The expected name is what is configured, up to the first colon; a path of a socket has none.
	config.ServerName, _, _ = strings.Cut(address, ":")
	if host, _, err := net.SplitHostPort(address); err == nil {
		config.ServerName = host
	}
	return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, address)
}

func clientTLS(c *kascfg.RedisTLSCF) (*tls.Config, error) {
	if !c.GetEnabled() {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if path := c.GetCaCertificateFile(); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", path)
		}
	}
	if c.GetCertificateFile() == "" && c.GetKeyFile() == "" {
		return config, nil
	}
	if _, err := tls.LoadX509KeyPair(c.GetCertificateFile(), c.GetKeyFile()); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.GetCertificateFile(), c.GetKeyFile())
		return &pair, err
	}
	return config, nil
}

func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
}

func dialTimeout(f *kascfg.RedisCF) time.Duration {
	return duration(f.GetDialTimeout(), defaultDialTimeout)
}

func callTimeout(f *kascfg.RedisCF) time.Duration {
	return min(duration(f.GetWriteTimeout(), defaultWriteTimeout), maxCallTimeout)
}

func keyPrefix(f *kascfg.RedisCF) string {
	if f.GetKeyPrefix() == "" {
		return defaultKeyPrefix
	}
	return f.GetKeyPrefix()
}

func duration(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil || d.AsDuration() <= 0 {
		return otherwise
	}
	return d.AsDuration()
}
