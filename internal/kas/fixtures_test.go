package kas_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentregistrar"
	serverinfo "gitlab.com/agentk/agentk/api/serverinfo/rpc"
	"gitlab.com/agentk/agentk/internal/kas"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/test/redis"
)

// installation is a file that GitLab's package writes, moved into a folder of the test and started.
type installation struct {
	t   *testing.T
	dir string
	// addresses are the listeners by the port that they have in the file.
	addresses map[string]string
	key       []byte
	log       *logBuffer
}

var listenAddress = regexp.MustCompile(`(?:localhost|0\.0\.0\.0):(81\d\d)`)

// start moves the file of a name and starts kas with it, until it answers. replace are texts to be
// replaced, in pairs.
func start(t *testing.T, name string, replace ...string) *installation {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("config", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{t: t, dir: t.TempDir(), addresses: map[string]string{}, key: []byte("0123456789abcdef0123456789abcdef"), log: &logBuffer{}}
	text := strings.NewReplacer(replace...).Replace(string(data))
	for _, root := range []string{"/var/opt/gitlab/", "/run/kas/", "/c/", "/s/"} {
		text = strings.ReplaceAll(text, root, i.path(root))
	}
	text = listenAddress.ReplaceAllStringFunc(text, func(address string) string {
		port := address[strings.LastIndexByte(address, ':')+1:]
		i.addresses[port] = freeAddress(t)
		return i.addresses[port]
	})
	for _, secret := range []string{"/var/opt/gitlab/gitlab-kas/authentication_secret_file", "/var/opt/gitlab/gitlab-kas/private_api_authentication_secret_file", "/s/api", "/s/priv"} {
		i.write(secret, base64.StdEncoding.EncodeToString(i.key)+"\n")
	}
	for _, secret := range []string{"/var/opt/gitlab/gitlab-kas/websocket_token_secret_file", "/s/ws"} {
		i.write(secret, base64.StdEncoding.EncodeToString(make([]byte, 72)))
	}
	for _, pair := range []string{"/c/a", "/c/k", "/c/p"} {
		i.certificate(pair)
	}
	for _, pair := range []string{"/c/r", "/c/s", "/c/ca", "/c/sca"} {
		i.certificate(pair)
	}
	for _, password := range []string{"/s/redis", "/s/sentinel"} {
		i.write(password, "password")
	}
	i.write("/run/kas/.keep", "")
	i.write("/var/opt/gitlab/redis/.keep", "")
	i.write("/kas.yaml", text)
	i.run()
	return i
}

func (i *installation) path(name string) string {
	return filepath.Join(i.dir, name) + strings.Repeat("/", strings.Count(name[len(name)-1:], "/"))
}

func (i *installation) write(name, content string) {
	i.t.Helper()
	path := i.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

// certificate makes a pair of files for 127.0.0.1.
func (i *installation) certificate(name string) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		i.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		i.t.Fatal(err)
	}
	i.write(name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	i.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// trust is a client's settings for the certificate of a name.
func (i *installation) trust(name string) *tls.Config {
	i.t.Helper()
	data, err := os.ReadFile(i.path(name + ".pem"))
	if err != nil {
		i.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// run runs kas until the end of the test, and waits until it is ready.
func (i *installation) run() {
	i.t.Helper()
	cfg, err := config.Load(i.t.Context(), i.path("/kas.yaml"))
	if err != nil {
		i.t.Fatal(err)
	}
	quick(cfg)
	serve(i.t, cfg, i.log)
	i.await("/metrics", http.StatusOK)
}

// await waits until a page of the observability listener has a status.
func (i *installation) await(page string, want int) {
	i.t.Helper()
	deadline := time.Now().Add(patience)
	for i.get("http://"+i.addresses["8151"]+page, nil) != want {
		if time.Now().After(deadline) {
			i.t.Fatalf("%s is not answered with %d", page, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// quick takes the waiting out of the stop.
func quick(cfg *config.Config) {
	moment := aMoment
	cfg.File.Agent.Listen.ListenGracePeriod = moment
	if l := cfg.File.Agent.KubernetesApi.GetListen(); l != nil {
		l.ListenGracePeriod, l.ShutdownGracePeriod = moment, moment
	}
	if l := cfg.File.GetApi().GetListen(); l != nil {
		l.ListenGracePeriod = moment
	}
}

// serve runs kas until the end of the test.
func serve(t *testing.T, cfg *config.Config, out io.Writer) {
	t.Helper()
	log, err := telemetry.NewLog(telemetry.LogConfig{Output: io.MultiWriter(out, testWriter{t}), Level: zapcore.DebugLevel})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- kas.Run(ctx, cfg, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// get is the status of an answer; 0 without one.
func (i *installation) get(url string, security *tls.Config) int {
	i.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: security, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// serverInfo asks what Rails asks.
func (i *installation) serverInfo(target string) error {
	i.t.Helper()
	conn := i.dial(target, insecure.NewCredentials())
	now := time.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "gitlab.test", "aud": "gitlab-kas", "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Minute).Unix(),
	}).SignedString(i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	client := serverinfo.NewServerInfoClient(conn)
	if _, err := client.GetServerInfo(timeout(i.t), &serverinfo.GetServerInfoRequest{}); status.Code(err) != codes.Unauthenticated {
		i.t.Errorf("without a token: %v", err)
	}
	_, err = client.GetServerInfo(metadata.AppendToOutgoingContext(timeout(i.t), "authorization", "bearer "+token), &serverinfo.GetServerInfoRequest{})
	return err
}

// register is a call of an agent that no GitLab knows: there is none.
func (i *installation) register(security credentials.TransportCredentials) error {
	i.t.Helper()
	conn := i.dial(i.addresses["8150"], security)
	_, err := agentregistrar.NewAgentRegistrarClient(conn).Register(
		metadata.AppendToOutgoingContext(timeout(i.t), "authorization", "Bearer glagent-x"),
		&agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1})
	return err
}

func (i *installation) dial(target string, security credentials.TransportCredentials) *grpc.ClientConn {
	i.t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(security))
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestOmnibusDefault_Starts(t *testing.T) {
	shared := redis.StartT(t, redis.Config{Unix: true})
	i := start(t, "omnibus-default.yaml", "https://gitlab.test", "http://127.0.0.1:1", "/var/opt/gitlab/redis/redis.socket", shared.Socket())
	i.await("/readiness", http.StatusOK)
	if got := i.get("http://"+i.addresses["8154"]+"/version", nil); got != http.StatusUnauthorized {
		t.Errorf("proxy: %d", got)
	}
	if got := i.get("http://"+i.addresses["8150"]+"/", nil); got != http.StatusUpgradeRequired {
		t.Errorf("agent listener: %d", got)
	}
	if err := i.serverInfo(i.addresses["8153"]); err != nil {
		t.Errorf("API for Rails: %v", err)
	}
	if err := i.register(insecure.NewCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("an agent without a GitLab: %v", err)
	}
	if want := "grpc://" + i.addresses["8155"]; !strings.Contains(i.log.String(), want) {
		t.Errorf("kas does not say that other kas reach it at %s", want)
	}
}

func TestOmnibusEverything_Starts(t *testing.T) {
	t.Setenv("OWN_PRIVATE_API_HOST", "kas.test")
	command := filepath.Join(t.TempDir(), "render-more")
	if err := os.WriteFile(command, []byte("#!/bin/sh\necho 'observability: {liveness_probe: {url_path: /alive}}'\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	i := start(t, "omnibus-everything.yaml", "https://gitlab.test", "http://127.0.0.1:1", "/usr/local/bin/render-more", command,
		"10.0.0.1:26379", "127.0.0.1:1", "10.0.0.2:6379", "127.0.0.1:1")
	// Redis cannot be reached: all else works, and whoever asks for the readiness is told why this kas should not get requests.
	i.await("/readiness", http.StatusInternalServerError)
	if got := i.get("http://"+i.addresses["8151"]+"/alive", nil); got != http.StatusOK {
		t.Errorf("what the command printed has no effect: %d", got)
	}
	if got := i.get("https://"+i.addresses["8154"]+"/version", i.trust("/c/k")); got != http.StatusUnauthorized {
		t.Errorf("proxy: %d", got)
	}
	if err := i.serverInfo("unix:" + i.path("/run/kas/internal.sock")); err != nil {
		t.Errorf("API for Rails: %v", err)
	}
	if err := i.register(credentials.NewTLS(i.trust("/c/a"))); status.Code(err) != codes.Unavailable {
		t.Errorf("an agent without a GitLab: %v", err)
	}
	for _, section := range []string{"observability.sentry", "workspaces"} {
		if !strings.Contains(i.log.String(), "Configuration: "+section+" (line ") {
			t.Errorf("nothing is said about %s", section)
		}
	}
	// A renewed certificate is used without a restart.
	i.certificate("/c/k")
	renewed := i.trust("/c/k")
	deadline := time.Now().Add(patience)
	for i.get("https://"+i.addresses["8154"]+"/version", renewed) != http.StatusUnauthorized {
		if time.Now().After(deadline) {
			t.Fatal("the old certificate stays")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestRun_RefusesToStart(t *testing.T) {
	i := &installation{t: t, dir: t.TempDir(), key: make([]byte, 32)}
	i.write("/good", base64.StdEncoding.EncodeToString(i.key))
	i.write("/short", base64.StdEncoding.EncodeToString(i.key[:31]))
	i.write("/text", "canary, not Base64")
	const whole = `
gitlab: {address: "http://127.0.0.1:1", authentication_secret_file: GOOD}
redis: {server: {address: "127.0.0.1:1"}}
api: {listen: {address: "127.0.0.1:0", authentication_secret_file: GOOD}}
private_api: {listen: {address: "127.0.0.1:0", authentication_secret_file: GOOD}}
agent: {listen: {address: "127.0.0.1:0"}, kubernetes_api: {listen: {address: "127.0.0.1:0"}}}
observability: {listen: {address: "127.0.0.1:0"}}
`
	for name, tt := range map[string]struct{ old, replacement, want string }{
		"no secret":          {"authentication_secret_file: GOOD}\nredis", "authentication_secret_file: /nowhere}\nredis", "start backend: "},
		"short secret":       {"authentication_secret_file: GOOD}\nredis", "authentication_secret_file: SHORT}\nredis", "start backend: "},
		"no Base64":          {"authentication_secret_file: GOOD}\nredis", "authentication_secret_file: TEXT}\nredis", "start backend: "},
		"no CA":              {"authentication_secret_file: GOOD}\nredis", "authentication_secret_file: GOOD, ca_certificate_file: /nowhere}\nredis", "start backend: "},
		"Rails' secret":      {"authentication_secret_file: GOOD}}\nprivate", "authentication_secret_file: TEXT}}\nprivate", "start API for Rails: "},
		"private secret":     {"authentication_secret_file: GOOD}}\nagent", "authentication_secret_file: TEXT}}\nagent", "start private API: "},
		"Redis' password":    {"redis: {", "redis: {password_file: /nowhere, ", "start store: "},
		"private TLS":        {"authentication_secret_file: GOOD}}\nagent", "authentication_secret_file: GOOD, certificate_file: /c, key_file: /k}}\nagent", "start environment: environment variable OWN_PRIVATE_API_HOST"},
		"WebSocket key":      {"kubernetes_api: {", "kubernetes_api: {websocket_token_secret_file: SHORT, ", "start Kubernetes API proxy: WebSocket token secret"},
		"response header":    {"kubernetes_api: {", "kubernetes_api: {extra_allowed_response_headers: [a b], ", "start Kubernetes API proxy: "},
		"agent certificate":  {`agent: {listen: {address: "127.0.0.1:0"`, `agent: {listen: {address: "127.0.0.1:0", certificate_file: /nowhere, key_file: /nowhere`, "start agent listener: "},
		"observability cert": {`observability: {listen: {address: "127.0.0.1:0"`, `observability: {listen: {address: "127.0.0.1:0", certificate_file: /nowhere, key_file: /nowhere`, "start observability: "},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(whole, tt.old) {
				t.Fatalf("no %q", tt.old)
			}
			text := strings.Replace(whole, tt.old, tt.replacement, 1)
			text = strings.NewReplacer("GOOD", i.path("/good"), "SHORT", i.path("/short"), "TEXT", i.path("/text")).Replace(text)
			i.write("/kas.yaml", text)
			cfg, err := config.Load(t.Context(), i.path("/kas.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			log, err := telemetry.NewLog(telemetry.LogConfig{Output: testWriter{t}, Level: zapcore.DebugLevel})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err = kas.Run(ctx, cfg, log)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
