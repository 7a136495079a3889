package redisstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

// rights are those of the package comment.
const rights = "~gitlab-kas:* &gitlab-kas:* +@read +@write +@pubsub +@scripting +@connection"

func serverFile(address string) *kascfg.RedisCF {
	return &kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Server{Server: &kascfg.RedisServerCF{Address: address}}}
}

// door is a way to a server.
type door struct {
	server redis.Config
	change func(f *kascfg.RedisCF, s *redis.Server)
}

var doors = map[string]door{
	"user of few rights": {
		redis.Config{Username: "kas", Password: "secret", Rules: rights},
		func(f *kascfg.RedisCF, s *redis.Server) { f.Username, f.PasswordFile = "kas", s.PasswordFile() },
	},
	"tls": {
		redis.Config{TLS: true, ClientCertificates: true},
		func(f *kascfg.RedisCF, s *redis.Server) {
			f.Tls = &kascfg.RedisTLSCF{
				Enabled: true, CaCertificateFile: s.CAFile(), CertificateFile: s.ClientCertFile(), KeyFile: s.ClientKeyFile(),
			}
		},
	},
	"unix socket": {
		redis.Config{Unix: true, Password: "secret"},
		func(f *kascfg.RedisCF, s *redis.Server) {
			f.Network, f.GetServer().Address, f.PasswordFile = "unix", s.Socket(), s.PasswordFile()
		},
	},
}

func TestStore_Doors(t *testing.T) {
	t.Parallel()
	for name, d := range doors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redis.StartT(t, d.server)
			file := at(server)
			d.change(file, server)
			works(t, file)
		})
	}
}

func TestStore_PasswordIsTakenByteForByte(t *testing.T) {
	t.Parallel()
	const password = "se cret\n"
	server := redis.StartT(t, redis.Config{})
	must(t, os.WriteFile(server.PasswordFile(), []byte(password), 0o600))
	set(t, server, "requirepass", password)
	file := at(server)
	file.PasswordFile = server.PasswordFile()
	open(t, redisstore.Config{File: file})
}

func TestStore_Database(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	file := at(server)
	file.DatabaseIndex = 7
	works(t, file)
	if keys, err := server.Keys(t.Context(), "*"); err != nil || len(keys) > 0 {
		t.Errorf("database 0 has %v, %v", keys, err)
	}
}

func TestStore_UntrustedCertificate(t *testing.T) {
	t.Parallel()
	server, other := redis.StartT(t, redis.Config{TLS: true}), redis.StartT(t, redis.Config{TLS: true})
	file := at(server)
	file.Tls = &kascfg.RedisTLSCF{Enabled: true, CaCertificateFile: other.CAFile()}
	s, err := redisstore.New(redisstore.Config{File: file})
	must(t, err)
	run(t, s.Run)
	eventually(t, "trouble", func() bool { return strings.Contains(s.State().Trouble, "certificate") })
}

// works goes through everything a store does once, so that a missing right shows.
func works(t *testing.T, file *kascfg.RedisCF) {
	t.Helper()
	ctx := t.Context()
	a, b := open(t, redisstore.Config{File: file}), open(t, redisstore.Config{File: file})
	events, err := b.Subscribe(ctx)
	must(t, err)
	locations := b.Watch(ctx, 1)
	for i := range int64(20) { // enough to be swept
		must(t, a.RegisterAgent(ctx, connection(1, i), 20*time.Millisecond))
	}
	must(t, a.RegisterAgent(ctx, connection(1, 20), time.Minute)) // one that is still there when others look
	must(t, a.AddTunnel(ctx, 1, "grpc://a", time.Minute))
	must(t, a.RefreshTunnels(ctx, "grpc://a", time.Minute, 1, 2))
	hears(t, locations, "grpc://a")
	must(t, a.RemoveTunnel(ctx, 1, "grpc://a"))
	hears(t, locations, "")
	must(t, a.UnregisterAgent(ctx, 1, 1))
	if _, err := a.AgentsByProject(ctx, 1); err != nil {
		t.Error(err)
	}
	if _, err := a.AllAgents(ctx); err != nil {
		t.Error(err)
	}
	if _, ok, err := a.LastSeen(ctx, 1); !ok || err != nil {
		t.Errorf("last seen %t, %v", ok, err)
	}
	if ok, err := a.Allow(ctx, "x", 1, time.Minute); !ok || err != nil {
		t.Errorf("allow: %t, %v", ok, err)
	}
	// The subscription of b starts with closing those who may have missed something.
	eventually(t, "event of the other replica", func() bool {
		must(t, a.Publish(ctx, "group/one"))
		select {
		case path, ok := <-events:
			if !ok {
				events, err = b.Subscribe(ctx)
				must(t, err)
			}
			return path == "group/one"
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
}

// hears waits until a watcher has been told exactly these locations, given with spaces between.
func hears(t *testing.T, ch <-chan []string, want string) {
	t.Helper()
	if !told(ch, want, patience) {
		t.Fatalf("did not hear %q", want)
	}
}

func TestStore_WrongPassword(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{Password: "secret"})
	path := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(path, []byte("wrong-one"), 0o600))
	file := at(server)
	file.PasswordFile = path
	s, err := redisstore.New(redisstore.Config{File: file})
	must(t, err)
	run(t, s.Run)
	eventually(t, "trouble", func() bool { return strings.Contains(s.State().Trouble, "WRONGPASS") })
	if trouble := s.State(); trouble.Answered || strings.Contains(trouble.Trouble, "wrong-one") {
		t.Errorf("state is %+v", trouble)
	}
	// The right password comes without a restart.
	must(t, os.WriteFile(path, []byte("secret"), 0o600))
	eventually(t, "answer", func() bool { return s.State().Answered })
}

func TestNew_BadConfiguration(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, nil, 0o600))
	with := func(change func(f *kascfg.RedisCF)) *kascfg.RedisCF {
		f := serverFile("127.0.0.1:1")
		change(f)
		return f
	}
	sentinel := func(s *kascfg.RedisSentinelCF) *kascfg.RedisCF {
		s.MasterName, s.Addresses = "m", []string{"127.0.0.1:1"}
		return &kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Sentinel{Sentinel: s}}
	}
	for want, file := range map[string]*kascfg.RedisCF{
		"no configuration": nil,
		"one of server":    {},
		"password_file":    with(func(f *kascfg.RedisCF) { f.PasswordFile = missing }),
		"missing":          with(func(f *kascfg.RedisCF) { f.Tls = &kascfg.RedisTLSCF{Enabled: true, CaCertificateFile: missing} }),
		"no certificate":   with(func(f *kascfg.RedisCF) { f.Tls = &kascfg.RedisTLSCF{Enabled: true, CaCertificateFile: empty} }),
		"redis.tls": with(func(f *kascfg.RedisCF) {
			f.Tls = &kascfg.RedisTLSCF{Enabled: true, CertificateFile: empty, KeyFile: empty}
		}),
		"sentinel_password_file": sentinel(&kascfg.RedisSentinelCF{SentinelPasswordFile: missing}),
		"redis.sentinel.tls":     sentinel(&kascfg.RedisSentinelCF{Tls: &kascfg.RedisTLSCF{Enabled: true, CaCertificateFile: missing}}),
	} {
		if _, err := redisstore.New(redisstore.Config{File: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %q", err, want)
		}
	}
}
