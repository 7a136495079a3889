package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
)

const (
	redisPort = "6379"
	// nearlyFull is the share of its memory at which Redis is worth a warning.
	nearlyFull = 0.9
)

// redisChecks are those of the shared store; none, when the configuration has none.
func (d *Doctor) redisChecks() []doctor.Check {
	if d.kas.File.GetRedis() == nil {
		return nil
	}
	return []doctor.Check{{ID: "redis", Name: "Redis", Run: d.redis}}
}

// redis finds the master, logs in and asks how it is.
func (d *Doctor) redis(ctx context.Context) doctor.Outcome {
	cf := d.kas.File.GetRedis()
	password, err := readPassword(cf.GetPasswordFile())
	if err != nil {
		return doctor.Bad("secret-file", "%v", err)
	}
	d.secrets = append(d.secrets, password)
	network, address := cf.GetNetwork(), withPort(cf.GetServer().GetAddress(), cf.GetNetwork())
	switch {
	case cf.GetSentinel() != nil:
		found, o := d.master(ctx, cf)
		if found == "" {
			return o
		}
		network, address = "tcp", found
	case cf.GetCluster() != nil:
		network, address = "tcp", withPort(cf.GetCluster().GetAddresses()[0], "tcp")
	}
	c, o := dialRedis(ctx, network, address, cf.GetTls(), cf.GetUsername(), password)
	if c == nil {
		return o
	}
	defer c.close()
	return c.state(address)
}

// master asks the sentinels one after the other.
func (d *Doctor) master(ctx context.Context, cf *kascfg.RedisCF) (string, doctor.Outcome) {
	s := cf.GetSentinel()
	password, err := readPassword(s.GetSentinelPasswordFile())
	if err != nil {
		return "", doctor.Bad("secret-file", "%v", err)
	}
	d.secrets = append(d.secrets, password)
	var last doctor.Outcome
	for _, one := range s.GetAddresses() {
		address := withPort(one, "tcp")
		c, o := dialRedis(ctx, "tcp", address, s.GetTls(), "", password)
		if c == nil {
			last = o
			continue
		}
		answer, err := c.do("SENTINEL", "get-master-addr-by-name", s.GetMasterName())
		c.close()
		parts := strings.Split(answer, "\n")
		if err == nil && len(parts) == 2 {
			return net.JoinHostPort(parts[0], parts[1]), doctor.Outcome{}
		}
		last = doctor.Bad("redis-unreachable", "the sentinel %s knows no master %q", address, s.GetMasterName())
	}
	return "", last
}

// state asks Redis what it is and how full.
func (c *redisConn) state(address string) doctor.Outcome {
	role, err := c.do("ROLE")
	if err == nil && strings.HasPrefix(role, "slave") {
		return doctor.Bad("redis-role", "%s is a replica", address)
	}
	info, err := c.do("INFO")
	if err != nil {
		// Users of Redis may be kept from asking; what kas itself needs is answered.
		return doctor.Good("%s answers", address)
	}
	values := map[string]string{}
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		values[key] = value
	}
	used, _ := strconv.ParseFloat(values["used_memory"], 64)
	limit, _ := strconv.ParseFloat(values["maxmemory"], 64)
	switch {
	case values["loading"] == "1":
		return doctor.Doubt("redis-state", "%s still loads its data", address)
	case limit > 0 && used > nearlyFull*limit:
		return doctor.Doubt("redis-state", "%s uses %.0f of %.0f MiB", address, used/(1<<20), limit/(1<<20))
	}
	return doctor.Good("%s answers: Redis %s, %s, %.0f MiB used", address, values["redis_version"], values["role"], used/(1<<20))
}

// readPassword takes the file as it is, as kas does.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	return string(content), err
}

func withPort(address, network string) string {
	if network == "unix" {
		return address
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), redisPort)
}

// dialRedis connects and logs in; nil: the outcome says why not.
func dialRedis(ctx context.Context, network, address string, cf *kascfg.RedisTLSCF, user, password string) (*redisConn, doctor.Outcome) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, unreachableRedis(reach.Explain("Redis", address, err))
	}
	if cf.GetEnabled() {
		trust, err := redisTLS(cf, address)
		if err != nil {
			_ = conn.Close()
			return nil, doctor.Bad("certificate-files", "redis.tls: %v", err)
		}
		secure := tls.Client(conn, trust)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, doctor.Bad("redis-unreachable", "TLS handshake with Redis %s: %v", address, err)
		}
		conn = secure
	}
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			_ = conn.Close()
			return nil, doctor.Bad("redis-unreachable", "%v", err)
		}
	}
	c := newRedisConn(conn)
	if err := c.login(user, password); err != nil {
		c.close()
		var refused redisError
		if errors.As(err, &refused) {
			return nil, doctor.Bad("redis-login", "%s: %v", address, err)
		}
		return nil, doctor.Bad("redis-unreachable", "%s does not answer as Redis does: %v", address, err)
	}
	return c, doctor.Outcome{}
}

func unreachableRedis(o doctor.Outcome) doctor.Outcome {
	o.Cause = "redis-unreachable"
	return o
}

func redisTLS(cf *kascfg.RedisTLSCF, address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	conf := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if cf.GetCaCertificateFile() != "" {
		pem, err := os.ReadFile(cf.GetCaCertificateFile())
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", cf.GetCaCertificateFile())
		}
	}
	if cf.GetCertificateFile() != "" {
		own, err := tls.LoadX509KeyPair(cf.GetCertificateFile(), cf.GetKeyFile())
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{own}
	}
	return conf, nil
}
