package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// SentinelConfig says what a Sentinel consists of.
type SentinelConfig struct {
	// Data is how the data servers are run; Dir is a folder for all, Port is ignored. With TLS everybody speaks TLS only, sentinels
	// too, with certificates of one authority.
	Data Config
	// SentinelPassword is what the sentinels want from their clients; SentinelPasswordFile holds it. Empty means nothing.
	SentinelPassword string
	// DownAfter is how long the master must not answer until the sentinels replace it; 0 means 500 ms.
	DownAfter time.Duration
}

// MasterName is what the sentinels call the master.
const MasterName = "kas-master"

// Sentinel is a master and one replica, watched by three sentinels of which two must agree.
type Sentinel struct {
	// Data are the data servers; the first one starts as the master.
	Data []*Server
	// Sentinels are the watchers.
	Sentinels []*Server

	dir string
}

// StartSentinelT starts a Sentinel for one test and ends it afterwards.
func StartSentinelT(t testing.TB, cfg SentinelConfig) *Sentinel {
	t.Helper()
	if cfg.Data.Dir == "" {
		cfg.Data.Dir = tempDir(t)
	}
	s, err := StartSentinel(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, server := range append(s.Sentinels, s.Data...) {
			server.finish(t)
		}
	})
	return s
}

// StartSentinel starts a Sentinel and waits until the sentinels know each other and the replica, so that they can fail over.
func StartSentinel(ctx context.Context, cfg SentinelConfig) (*Sentinel, error) {
	s := &Sentinel{dir: cfg.Data.Dir}
	if err := s.start(ctx, cfg); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Sentinel) start(ctx context.Context, cfg SentinelConfig) error {
	if cfg.Data.Username != "" {
		return errors.New("redis: a Sentinel has no users")
	}
	if cfg.Data.TLS {
		if err := writeCertificates(s.dir); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
		cfg.Data.certificates = s.dir
		cfg.Data.Lines = append([]string{"tls-replication yes"}, cfg.Data.Lines...)
	}
	if err := os.WriteFile(s.SentinelPasswordFile(), []byte(cfg.SentinelPassword), 0o600); err != nil {
		return err
	}
	for i := range 2 {
		data := cfg.Data
		data.Port = 0
		if i > 0 {
			data.Lines = append([]string{"replicaof 127.0.0.1 " + strconv.Itoa(s.Data[0].port)}, data.Lines...)
		}
		if err := s.add(ctx, &s.Data, fmt.Sprintf("data%d", i), data); err != nil {
			return err
		}
	}
	for i := range 3 {
		if err := s.add(ctx, &s.Sentinels, fmt.Sprintf("sentinel%d", i), sentinelConfig(cfg, s.Data[0])); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, sentinel := range s.Sentinels {
		if err := sentinel.wait(ctx, "quorum", func(ctx context.Context) error { return ready(ctx, sentinel) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sentinel) add(ctx context.Context, list *[]*Server, name string, cfg Config) error {
	cfg.Dir = filepath.Join(s.dir, name)
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		return err
	}
	server, err := Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*list = append(*list, server)
	return nil
}

func sentinelConfig(cfg SentinelConfig, master *Server) Config {
	down := cfg.DownAfter
	if down == 0 {
		down = 500 * time.Millisecond
	}
	set := func(what string, value any) string { return fmt.Sprintf("sentinel %s %s %v", what, MasterName, value) }
	lines := []string{
		set("monitor", fmt.Sprintf("127.0.0.1 %d 2", master.port)),
		set("down-after-milliseconds", down.Milliseconds()),
		set("failover-timeout", 5000),
	}
	if cfg.Data.Password != "" {
		lines = append(lines, set("auth-pass", cfg.Data.Password))
	}
	if cfg.SentinelPassword != "" {
		lines = append(lines, "sentinel sentinel-pass "+cfg.SentinelPassword)
	}
	if cfg.Data.TLS {
		lines = append(lines, "tls-replication yes")
	}
	return Config{
		TLS: cfg.Data.TLS, ClientCertificates: cfg.Data.ClientCertificates, certificates: cfg.Data.certificates,
		Password: cfg.SentinelPassword, Lines: lines, sentinel: true,
	}
}

// ready says whether a sentinel could take part in a failover now.
func ready(ctx context.Context, sentinel *Server) error {
	if _, err := sentinel.Do(ctx, "SENTINEL", "CKQUORUM", MasterName); err != nil {
		return err
	}
	replicas, err := sentinel.Do(ctx, "SENTINEL", "REPLICAS", MasterName)
	if err != nil {
		return err
	}
	if !strings.Contains(replicas, "master-link-status\nok") {
		return errors.New("the replica is not linked to its master yet")
	}
	others, err := sentinel.Do(ctx, "SENTINEL", "SENTINELS", MasterName)
	if err != nil {
		return err
	}
	if n := strings.Count(others, "runid\n"); n != 2 {
		return fmt.Errorf("knows %d other sentinels, not 2", n)
	}
	return nil
}

// Addresses are those of the sentinels.
func (s *Sentinel) Addresses() []string {
	var list []string
	for _, sentinel := range s.Sentinels {
		list = append(list, sentinel.Address())
	}
	return list
}

// SentinelPasswordFile holds SentinelConfig.SentinelPassword, without a newline.
func (s *Sentinel) SentinelPasswordFile() string { return filepath.Join(s.dir, "sentinel-password") }

// Master is the data server that the sentinels call the master now.
func (s *Sentinel) Master(ctx context.Context) (*Server, error) {
	for _, sentinel := range s.Sentinels {
		answer, err := sentinel.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
		if err != nil {
			continue
		}
		host, port, _ := strings.Cut(answer, "\n")
		for _, data := range s.Data {
			if data.Address() == net.JoinHostPort(host, port) {
				return data, nil
			}
		}
	}
	return nil, errors.New("redis: no sentinel knows a master")
}

// Close ends all servers. It may be called more than once.
func (s *Sentinel) Close() {
	for _, server := range append(s.Sentinels, s.Data...) {
		server.Close()
	}
}
