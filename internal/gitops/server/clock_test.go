package server

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/store"
)

// fake is everything outside of the server, on the clock of a bubble: one agent, one project, files by commit. mu guards all of it.
type fake struct {
	mu         sync.Mutex
	authErr    error
	project    backend.Project
	projectErr error
	commit     string
	commitErr  error
	files      map[string]string
	changed    chan struct{}
	// looks, asks and reads count calls.
	looks, asks, reads int

	store  *store.Memory
	server *Server
	client gitops.GitopsClient
	age    time.Duration
	ttl    time.Duration
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) count() (looks, asks, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks, f.asks, f.reads
}

func (f *fake) Agent(context.Context) (backend.Agent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return backend.Agent{ID: 7}, f.authErr
}

func (f *fake) Project(context.Context, string, backend.Agent, string) (backend.Project, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks++
	return f.project, f.projectErr
}

func (f *fake) Resolve(context.Context, backend.Project, backend.Ref) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.commit, f.commitErr
}

func (f *fake) List(_ context.Context, _ backend.Project, _, _ string, _ bool, visit func(backend.Entry) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, content := range f.files {
		if err := visit(backend.Entry{Path: name, ID: "id of " + content, File: true}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Blobs(_ context.Context, _ backend.Project, _ string, entries []backend.Entry, _ int64, each func(backend.Entry, []byte) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	for _, e := range entries {
		if err := each(e, []byte(f.files[e.Path])); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fake) announce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

// inBubble runs a test on a clock of its own. Options change the fake before its server starts.
func inBubble(t *testing.T, test func(t *testing.T, f *fake), options ...func(f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{
			project: backend.Project{ID: 9, Path: "group/app"}, commit: "c1", files: map[string]string{"a.yaml": "a"},
			changed: make(chan struct{}), store: store.NewMemory(store.MemoryConfig{}), age: 24 * time.Hour,
		}
		for _, option := range options {
			option(f)
		}
		defer f.start(t)()
		test(t, f)
	})
}

func (f *fake) start(t *testing.T) (stop func()) {
	var err error
	f.server, err = New(Config{
		Auth: f, Token: func(context.Context) string { return "token" }, Projects: f, Repository: f, Pushes: f.store, Changes: f,
		AgeLimit: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, f.age)
			context.AfterFunc(ctx, cancel)
			return ctx
		},
		ProjectTTL: f.ttl, ProjectErrorTTL: time.Minute, PollPeriod: 5 * time.Minute,
		Limits: Limits{FileBytes: 5 << 20, TotalBytes: 20 << 20, Paths: 10, Files: 100}, ReadBytes: 1, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	gitops.RegisterGitopsServer(server, f.server)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	running.Go(func() { _ = f.server.Run(ctx) })
	conn, err := grpc.NewClient("passthrough:///kas", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	f.client = gitops.NewGitopsClient(conn)
	return func() {
		_ = conn.Close()
		server.Stop()
		cancel()
		running.Wait()
	}
}

// ended is how and when a stream came to its end, and with which commit.
type ended struct {
	commit string
	err    error
	after  time.Duration
}

// open reads a stream to its end in the background.
func (f *fake) open(t *testing.T, req *gitops.ObjectsToSynchronizeRequest) <-chan ended {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := f.client.GetObjectsToSynchronize(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan ended, 1)
	go func() {
		var e ended
		for {
			m, err := stream.Recv()
			if err != nil {
				e.err, e.after = err, time.Since(start)
				end <- e
				return
			}
			if m.GetHeader() != nil {
				e.commit = m.GetHeader().CommitId
			}
		}
	}()
	return end
}

func wantEnd(t *testing.T, end <-chan ended, commit string, after time.Duration) {
	t.Helper()
	e := <-end
	if !errors.Is(e.err, io.EOF) || e.commit != commit || e.after != after {
		t.Fatalf("ended with commit %q after %s, %v; want %q after %s", e.commit, e.after, e.err, commit, after)
	}
}

func wantCode(t *testing.T, end <-chan ended, code codes.Code, after time.Duration) {
	t.Helper()
	e := <-end
	if status.Code(e.err) != code || e.commit != "" || e.after != after {
		t.Fatalf("ended with commit %q after %s, %v; want %s after %s", e.commit, e.after, e.err, code, after)
	}
}

func has(commit string) *gitops.ObjectsToSynchronizeRequest {
	req := globs("**")
	req.CommitId = commit
	return req
}

func TestPoll_Period(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		end := f.open(t, has("c1"))
		time.Sleep(14 * time.Minute)
		f.set(func() { f.commit = "c2" })
		wantEnd(t, end, "c2", 15*time.Minute)
		if looks, asks, _ := f.count(); looks != 4 || asks != 4 {
			t.Errorf("%d looks, %d questions for the project; want 4", looks, asks)
		}
	})
}

func TestPoll_CommitNever(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		req := has("c1")
		req.Ref = commitRef("c1")
		end := f.open(t, req)
		for range 3 {
			time.Sleep(time.Hour)
			f.announce()
			_ = f.store.Publish(t.Context(), "group/app")
		}
		wantEnd(t, end, "", 24*time.Hour)
		if looks, _, _ := f.count(); looks != 1 {
			t.Errorf("%d looks", looks)
		}
	})
}

func TestPoll_PushAndChangeWake(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		end := f.open(t, has("c1"))
		time.Sleep(time.Second)
		_ = f.store.Publish(t.Context(), "group/other")
		time.Sleep(time.Second)
		f.set(func() { f.commit = "c2" })
		_ = f.store.Publish(t.Context(), "group/app")
		wantEnd(t, end, "c2", 2*time.Second)

		end = f.open(t, has("c2"))
		time.Sleep(time.Second)
		f.set(func() { f.commit = "c3" })
		f.announce()
		if e := <-end; e.commit != "c3" || e.after > time.Second+settle {
			t.Errorf("%+v", e)
		}
	})
}

func TestPoll_RenamedProjectIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		end := f.open(t, has("c1"))
		time.Sleep(time.Second)
		f.set(func() { f.project.Path = "group/renamed" })
		time.Sleep(6 * time.Minute)
		f.set(func() { f.commit = "c2" })
		_ = f.store.Publish(t.Context(), "group/app")
		time.Sleep(time.Second)
		_ = f.store.Publish(t.Context(), "group/renamed")
		wantEnd(t, end, "c2", 6*time.Minute+2*time.Second)
		// And where GitLab does not lead from the old path to the new one, the project is not there.
		end = f.open(t, has("c2"))
		time.Sleep(time.Second)
		f.set(func() { f.projectErr = fault.New(fault.NotFound, fault.GitLab, "project not found") })
		wantCode(t, end, codes.NotFound, 5*time.Minute)
	})
}

func TestPoll_AgeLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		wantEnd(t, f.open(t, has("c1")), "", time.Minute)
		f.set(func() { f.commitErr = fault.New(fault.Unavailable, fault.Git, "not now") })
		wantEnd(t, f.open(t, has("c1")), "", time.Minute)
	}, func(f *fake) { f.age = time.Minute })
}

func TestPoll_Refusals(t *testing.T) {
	for kind, code := range map[fault.Kind]codes.Code{
		fault.Unauthenticated: codes.Unauthenticated, fault.PermissionDenied: codes.PermissionDenied, fault.NotFound: codes.NotFound,
	} {
		inBubble(t, func(t *testing.T, f *fake) {
			f.set(func() { f.projectErr = fault.New(kind, fault.GitLab, "no") })
			wantCode(t, f.open(t, has("")), code, 0)
			f.set(func() { f.projectErr, f.authErr = nil, fault.New(kind, fault.GitLab, "no") })
			wantCode(t, f.open(t, has("")), code, 0)
		})
	}
}

// TestPoll_BusyServerIsLeftAlone: for as long as it says, though not for longer than until the next poll.
func TestPoll_BusyServerIsLeftAlone(t *testing.T) {
	for told, want := range map[time.Duration]time.Duration{2 * time.Minute: 2 * time.Minute, 24 * time.Hour: 5 * time.Minute} {
		inBubble(t, func(t *testing.T, f *fake) {
			f.set(func() {
				f.commitErr = &fault.Error{Kind: fault.Unavailable, Hop: fault.Git, Msg: "too much to do", RetryAfter: told}
			})
			end := f.open(t, has(""))
			time.Sleep(time.Second)
			f.set(func() { f.commitErr = nil })
			wantEnd(t, end, "c1", want)
		})
	}
}

// TestPoll_Trouble: an agent does not hear of what passes.
func TestPoll_Trouble(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Unavailable, fault.Internal, fault.ResourceExhausted, fault.DeadlineExceeded} {
		inBubble(t, func(t *testing.T, f *fake) {
			trouble := fault.New(kind, fault.Git, "not now")
			f.set(func() { f.authErr = trouble })
			end := f.open(t, has(""))
			time.Sleep(time.Minute)
			f.set(func() { f.authErr, f.projectErr = nil, trouble })
			time.Sleep(10 * time.Minute)
			f.set(func() { f.projectErr, f.commitErr = nil, trouble })
			time.Sleep(30 * time.Minute)
			looks, _, _ := f.count()
			if looks < 2 || looks > 7 {
				t.Errorf("%d looks in half an hour, want one in 5 to 10 minutes", looks)
			}
			f.set(func() { f.commitErr = nil })
			_ = f.store.Publish(t.Context(), "group/app") // cuts the wait short
			wantEnd(t, end, "c1", 41*time.Minute)
			if got := testutil.ToFloat64(f.server.metrics.results.WithLabelValues(resultSent)); got != 1 {
				t.Errorf("%v sent", got)
			}
		})
	}
}

func TestProjects_AreRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		ask := func(want int) {
			t.Helper()
			<-f.open(t, has("c0"))
			if _, asks, _ := f.count(); asks != want {
				t.Errorf("%d questions, want %d", asks, want)
			}
		}
		ask(1)
		time.Sleep(5*time.Minute - time.Second)
		ask(1)
		time.Sleep(time.Second)
		f.set(func() { f.projectErr = fault.New(fault.NotFound, fault.GitLab, "project not found") })
		ask(2)
		time.Sleep(time.Minute - time.Second)
		ask(2)
		time.Sleep(time.Second)
		ask(3)
		time.Sleep(time.Minute)
		// Trouble is not an answer.
		f.set(func() { f.projectErr = fault.New(fault.Unavailable, fault.GitLab, "not now") })
		end := f.open(t, has("c0"))
		time.Sleep(time.Second)
		f.set(func() { f.projectErr = nil })
		if e := <-end; e.commit != "c1" {
			t.Errorf("%+v", e)
		}
	}, func(f *fake) { f.ttl = 5 * time.Minute })
}

// TestSlowAgent: who does not take its batch loses it, and the room that it takes is free for others again.
func TestSlowAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.set(func() { f.files = map[string]string{"big.yaml": strings.Repeat("x", 5<<20)} })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		slow, err := f.client.GetObjectsToSynchronize(ctx, has(""))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the window is full
		f.set(func() { f.files = map[string]string{"a.yaml": "a"}; f.commit = "c2" })
		// The room is for one batch, whoever comes next waits for it.
		wantEnd(t, f.open(t, has("")), "c2", sendTimeout)
		n := 0
		for err = nil; err == nil; n++ {
			_, err = slow.Recv()
		}
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != fetchFailed || n > 30 {
			t.Errorf("%d messages, then %v", n, err)
		}
	})
}

// TestTurns: one agent does not keep all others waiting.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		var ends []func()
		for range maxTurns {
			end, err := turns.begin(t.Context(), 7)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := turns.begin(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more: %v", err)
		}
		end, err := turns.begin(t.Context(), 8)
		if err != nil {
			t.Fatal(err)
		}
		end()
		ends[0]()
		if end, err = turns.begin(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		end()
		for _, end := range ends[1:] {
			end()
		}
		if len(turns.agents) != 0 {
			t.Errorf("remembered: %v", turns.agents)
		}
	})
}
