package railsapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/serverinfo/rpc"
	"gitlab.com/agentk/agentk/internal/grpcserver"
	"gitlab.com/agentk/agentk/internal/version"
)

func TestServerInfo(t *testing.T) {
	f := start(t, nil)
	var header metadata.MD
	got, err := rpc.NewServerInfoClient(f.dial(t)).GetServerInfo(asRails(t), &rpc.GetServerInfoRequest{},
		grpc.UseCompressor(gzip.Name), grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	info := got.CurrentServerInfo
	if "v"+info.Version != version.Version || info.GitRef != version.Commit {
		t.Errorf("got %v", info)
	}
	if enc := header.Get("grpc-encoding"); len(enc) > 0 && enc[0] != "identity" {
		t.Errorf("answered with %v", enc)
	}
}

func TestUnknownServicesAreUnimplemented(t *testing.T) {
	f := start(t, nil)
	conn := f.dial(t)
	for _, method := range []string{
		"/gitlab.agent.autoflow.rpc.AutoFlow/CloudEvent",
		"/gitlab.agent.managed_resources.rpc.Provisioner/EnsureEnvironment",
		"/gitlab.agent.server_info.rpc.ServerInfo/Other",
	} {
		err := conn.Invoke(asRails(t), method, &rpc.GetServerInfoRequest{}, &rpc.GetServerInfoResponse{})
		if codeOf(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestAuthentication(t *testing.T) {
	f := start(t, nil)
	client := rpc.NewServerInfoClient(f.dial(t))
	for name, tc := range map[string]struct{ authorization, want string }{
		"none":         {"", "Request unauthenticated with bearer"},
		"no space":     {"x", "Bad authorization string"},
		"other key":    {"bearer " + token(t, bytes.Repeat([]byte{8}, 32)), "JWT validation failed"},
		"other scheme": {"Basic " + token(t, secret), "Request unauthenticated with bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if tc.authorization != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tc.authorization)
			}
			_, err := client.GetServerInfo(ctx, &rpc.GetServerInfoRequest{})
			wantStatus(t, err, codes.Unauthenticated, tc.want)
		})
	}
}

func TestSecretIsReloaded(t *testing.T) {
	f := start(t, nil)
	client := rpc.NewServerInfoClient(f.dial(t))
	old := asRails(t)
	if _, err := client.GetServerInfo(old, &rpc.GetServerInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	next := bytes.Repeat([]byte{9}, 32)
	f.writeSecret(t, next)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "bearer "+token(t, next))
	if _, err := client.GetServerInfo(ctx, &rpc.GetServerInfoRequest{}); err != nil {
		t.Error(err)
	}
	_, err := client.GetServerInfo(old, &rpc.GetServerInfoRequest{})
	wantStatus(t, err, codes.Unauthenticated, "JWT validation failed")
}

func TestPanicIsSurvived(t *testing.T) {
	f := start(t, nil)
	f.repository.panic = true
	conn := f.dial(t)
	_, err := configurationproject.NewConfigurationProjectClient(conn).ListAgentConfigFiles(asRails(t), filesRequest(""))
	wantStatus(t, err, codes.Internal, "internal error in kas")
	if _, err := rpc.NewServerInfoClient(conn).GetServerInfo(asRails(t), &rpc.GetServerInfoRequest{}); err != nil {
		t.Error(err)
	}
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "kas_api_panics_total" && family.GetMetric()[0].GetCounter().GetValue() == 1 {
			return
		}
	}
	t.Error("the panic is not counted")
}

func TestMetrics(t *testing.T) {
	t.Run("lint", func(t *testing.T) {
		f := start(t, nil)
		if problems, err := testutil.GatherAndLint(f.registry, "kas_api_panics_total"); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
	})
	t.Run("shared with another server", func(t *testing.T) {
		f := start(t, func(c *Config) {
			registry := prometheus.NewRegistry()
			if _, err := grpcserver.Metrics(registry); err != nil {
				t.Fatal(err)
			}
			c.Registerer = registry
		})
		if _, err := rpc.NewServerInfoClient(f.dial(t)).GetServerInfo(asRails(t), &rpc.GetServerInfoRequest{}); err != nil {
			t.Error(err)
		}
	})
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"kas.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// Rails' gRPC library insists on h2 in the TLS handshake.
func TestTLS(t *testing.T) {
	certificate, pool := selfSigned(t)
	f := start(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	})
	conn := f.dial(t, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "kas.test"})))
	if _, err := rpc.NewServerInfoClient(conn).GetServerInfo(asRails(t), &rpc.GetServerInfoRequest{}); err != nil {
		t.Error(err)
	}
}

func TestStop_LetsCallsFinish(t *testing.T) {
	f := start(t, nil)
	f.repository.block = true
	ctx, cancel := context.WithCancel(asRails(t))
	defer cancel()
	called := make(chan error, 1)
	go func() {
		_, err := configurationproject.NewConfigurationProjectClient(f.dial(t)).ListAgentConfigFiles(ctx, filesRequest(""))
		called <- err
	}()
	deadline := time.Now().Add(patience)
	for f.repository.mu.TryLock() { // the call holds it while it blocks
		f.repository.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the call does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	f.cancel()
	select {
	case err := <-f.done:
		t.Fatalf("stopped with a call under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	<-called
	f.wait(t)
}

func TestStop_CutsWhatDoesNotFinish(t *testing.T) {
	f := start(t, func(c *Config) { c.DrainTimeout = -1 })
	f.repository.block = true
	called := make(chan error, 1)
	go func() {
		_, err := configurationproject.NewConfigurationProjectClient(f.dial(t)).ListAgentConfigFiles(asRails(t), filesRequest(""))
		called <- err
	}()
	deadline := time.Now().Add(patience)
	for f.repository.mu.TryLock() {
		f.repository.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the call does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	f.cancel()
	f.wait(t)
	if err := <-called; codeOf(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestNew_Refusals(t *testing.T) {
	f := start(t, nil)
	good := func() Config {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		return Config{
			Listener: listener, SecretFile: f.secretFile, Agents: f.store, Events: f.store, ConfigFiles: f.repository, Log: zap.NewNop(),
		}
	}
	if _, err := New(good()); err != nil {
		t.Errorf("minimal: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no listener":     func(c *Config) { c.Listener = nil },
		"no secret":       func(c *Config) { c.SecretFile = "" },
		"missing secret":  func(c *Config) { c.SecretFile += ".none" },
		"no agents":       func(c *Config) { c.Agents = nil },
		"no events":       func(c *Config) { c.Events = nil },
		"no config files": func(c *Config) { c.ConfigFiles = nil },
		"no log":          func(c *Config) { c.Log = nil },
	} {
		cfg := good()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRequestsAreValidated(t *testing.T) {
	f := start(t, nil)
	for name, req := range map[string]*configurationproject.ListAgentConfigFilesRequest{
		"no repository": {GitalyInfo: &entity.GitalyInfo{Address: "unix:x"}},
		"no Gitaly":     {Repository: filesRequest("").Repository},
		"no address":    {Repository: filesRequest("").Repository, GitalyInfo: &entity.GitalyInfo{}},
	} {
		_, err := configurationproject.NewConfigurationProjectClient(f.dial(t)).ListAgentConfigFiles(asRails(t), req)
		if codeOf(err) != codes.InvalidArgument || !strings.Contains(err.Error(), ":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
