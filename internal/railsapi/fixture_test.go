package railsapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

var secret = bytes.Repeat([]byte{7}, 32)

// repository answers for Gitaly.
type repository struct {
	mu    sync.Mutex
	asked backend.Project
	files []ConfigFile
	err   error
	panic bool
	block bool
}

func (r *repository) AgentConfigFiles(ctx context.Context, p backend.Project) ([]ConfigFile, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panic {
		panic("secret of the panic")
	}
	if r.block {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.asked = p
	return r.files, r.err
}

// clock stands still until it is advanced.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a running server.
type fixture struct {
	addr       string
	store      *store.Memory
	clock      *clock
	repository *repository
	registry   *prometheus.Registry
	secretFile string
	cancel     context.CancelFunc
	done       chan error
}

func start(t *testing.T, adjust func(*Config)) *fixture {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		addr: listener.Addr().String(), clock: &clock{now: time.Now()}, repository: &repository{},
		registry: prometheus.NewPedanticRegistry(), secretFile: filepath.Join(t.TempDir(), "secret"), done: make(chan error, 1),
	}
	f.store = store.NewMemory(store.MemoryConfig{Now: f.clock.Now})
	f.writeSecret(t, secret)
	cfg := Config{
		Listener: listener, SecretFile: f.secretFile, Agents: f.store, Events: f.store, ConfigFiles: f.repository,
		MaxConnectionAge: 2 * time.Hour, ListenGracePeriod: -1, DrainTimeout: patience, Log: zap.NewNop(), Registerer: f.registry,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() { f.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		f.wait(t)
	})
	return f
}

// wait waits for Run; it may be called more than once.
func (f *fixture) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-f.done:
		f.done <- err
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(2 * patience):
		t.Error("Run does not end")
	}
}

func (f *fixture) writeSecret(t *testing.T, key []byte) {
	t.Helper()
	if err := os.WriteFile(f.secretFile+".new", []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.secretFile+".new", f.secretFile); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) dial(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)
	conn, err := grpc.NewClient("passthrough:"+f.addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// token is what Rails sends, signed with key.
func token(t *testing.T, key []byte) string {
	t.Helper()
	now := time.Now()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "gitlab.example.com", "aud": []string{"gitlab-kas"},
		"iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Minute).Unix(),
	}).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// asRails is the context of a call of Rails, feature flags included.
func asRails(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx,
		"authorization", "bearer "+token(t, secret), "kas-feature-autoflow", "true", "kas-feature-other", "false")
}

func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || st.Message() != text {
		t.Errorf("got %v %q, want %v %q", st.Code(), st.Message(), code, text)
	}
}
