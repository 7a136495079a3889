package gitaly

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

// ask puts every question to a repository. None may be answered when the repository cannot be read.
func (b *bed) ask(p backend.Project, check func(error)) {
	b.Helper()
	head, err := b.client.Head(b.Context(), p)
	check(err)
	if head != "" {
		b.Errorf("head %q", head)
	}
	data, err := b.client.File(b.Context(), p, oid2, configPath, 1000)
	check(err)
	if data != nil {
		b.Errorf("file %q", data)
	}
	files, err := b.client.AgentConfigFiles(b.Context(), p)
	check(err)
	if files != nil {
		b.Errorf("files %v", files)
	}
}

// TestRepositoryIsNotThere: whatever a release calls it, a repository that is missing or broken is asked for again later, and is
// never taken for a missing branch or file.
func TestRepositoryIsNotThere(t *testing.T) {
	for name, personality := range double.Personalities {
		for _, praefect := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				b := newBed(t, func(c *double.Config) { c.Personality, c.Praefect = personality, praefect })
				if err := os.MkdirAll(filepath.Join(b.root, "refsonly.git", "refs"), 0o700); err != nil {
					t.Fatal(err)
				}
				later := func(err error) {
					t.Helper()
					b.wantKind(err, fault.Unavailable)
				}
				b.ask(b.project("none"), later)
				b.ask(b.project("refsonly"), later)
				moved := b.project("none")
				moved.Repository.StorageName = "elsewhere"
				b.ask(moved, later)
				escaping := b.project("../x")
				b.ask(escaping, later)
				if err := os.RemoveAll(b.root); err != nil {
					t.Fatal(err)
				}
				b.ask(b.project("none"), later)
			})
		}
	}
}

func TestRepositoryIsNotThere_EveryText(t *testing.T) {
	b := newBed(t, nil)
	for _, text := range []string{
		"repository not found", "GetRepoPath: not a git repository", `repository "virtual"/"a/b.git" not found`, "storage does not exist",
		`rpc: mutator call: get repository: repository "v"/"@hashed/not found: x.git" not found`, "what nobody has seen yet",
		"accessor call: route repository accessor: consistent storages: repository not found",
	} {
		b.server.Break(double.Fault{Code: codes.NotFound, Message: text})
		b.ask(b.project("none"), func(err error) {
			t.Helper()
			b.wantKind(err, fault.Unavailable, "repository not found where GitLab says it is")
		})
		b.server.Mend()
	}
}

// TestServerTrouble: an agent hears nothing of it, except that it is to try again.
func TestServerTrouble(t *testing.T) {
	for _, code := range []codes.Code{codes.Internal, codes.Unknown, codes.Aborted, codes.DataLoss, codes.Canceled, codes.OutOfRange} {
		b := newBed(t, nil)
		b.server.Break(double.Fault{Code: code, Message: "no healthy nodes"})
		b.ask(b.project("full"), func(err error) {
			t.Helper()
			b.wantKind(err, fault.Unavailable, "no healthy nodes", code.String())
		})
	}
}

func TestServerTrouble_Refusals(t *testing.T) {
	for _, code := range []codes.Code{codes.Unauthenticated, codes.PermissionDenied} {
		b := newBed(t, nil)
		b.server.Break(double.Fault{Code: code, Message: "authentication required"})
		b.ask(b.project("full"), func(err error) {
			t.Helper()
			b.wantKind(err, fault.Unavailable, "refuses kas")
		})
		logs := b.logs.All()
		if len(logs) != 1 || logs[0].Level.String() != "error" || logs[0].ContextMap()["gitaly_address"] != b.server.TCPAddress() {
			t.Errorf("logged %v", logs)
		}
		b.clock.Add(alertPeriod)
		b.client.reap()
		b.ask(b.project("full"), func(err error) { b.wantKind(err, fault.Unavailable) })
		if n := b.logs.Len(); n != 2 {
			t.Errorf("%d lines, wanted one a minute", n)
		}
	}
}

func TestServerTrouble_Throttled(t *testing.T) {
	b := newBed(t, nil)
	for hint, want := range map[time.Duration]time.Duration{0: throttlePause, time.Second: throttlePause, time.Minute: time.Minute} {
		b.server.Break(b.server.Busy("", hint))
		_, err := b.client.Head(t.Context(), b.project("full"))
		b.wantKind(err, fault.Unavailable, "too much to do")
		if f, ok := err.(*fault.Error); !ok || f.RetryAfter != want {
			t.Errorf("got %#v, want to wait %v", err, want)
		}
		b.server.Mend()
	}
	b.wantCalls("InfoRefsUploadPack", "InfoRefsUploadPack", "InfoRefsUploadPack") // none is repeated at once
	b.server.Break(double.Fault{Code: codes.ResourceExhausted, Message: "no details", Details: []proto.Message{durationpb.New(1)}})
	_, err := b.client.Head(t.Context(), b.project("full"))
	b.wantKind(err, fault.Unavailable, "too much to do")
}

// TestServerTrouble_Unavailable: repeated while nothing has come, and told when something had.
func TestServerTrouble_Unavailable(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	b.server.Break(double.Fault{Code: codes.Unavailable, Message: "draining", Times: 2})
	got, err := b.client.Head(t.Context(), b.on("full", "main"))
	if err != nil || got != b.oid("full", "main") {
		t.Errorf("got %q, %v", got, err)
	}
	b.wantCalls("InfoRefsUploadPack", "InfoRefsUploadPack", "InfoRefsUploadPack")
	b.server.SetChunks(10)
	for _, after := range []int{1, 2, 10} {
		b.server.Break(double.Fault{Code: codes.Unavailable, Message: "draining", After: after})
		_, err = b.client.Head(t.Context(), b.on("full", "main"))
		b.wantKind(err, fault.Unavailable, "draining")
		b.wantCalls("InfoRefsUploadPack")
		_, err = b.client.File(t.Context(), b.project("full"), b.oid("full", "main"), "big.bin", 1<<20)
		b.wantKind(err, fault.Unavailable, "draining")
		b.wantCalls("TreeEntry")
		b.server.Mend()
	}
}

func TestServerTrouble_Unreachable(t *testing.T) {
	b := newBed(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	_ = listener.Close()
	for _, address := range []string{"tcp://" + nobody, "tls://" + nobody, "unix:" + filepath.Join(b.root, "none.sock"), "dns:" + nobody} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			p := b.project("full")
			p.Gitaly.Address = address
			_, err := b.client.Head(t.Context(), p)
			b.wantKind(err, fault.Unavailable)
		})
	}
}

func TestServerTrouble_BadAddress(t *testing.T) {
	b := newBed(t, nil)
	for address, want := range map[string]string{"http://gitaly": "unknown scheme", "tls://u:" + testSecret + "@gitaly:1": "user name or password"} {
		p := b.project("full")
		p.Gitaly.Address = address
		_, err := b.client.Head(t.Context(), p)
		b.wantKind(err, fault.Unavailable, want)
	}
	if n := b.logs.Len(); n != 2 {
		t.Errorf("%d lines", n)
	}
	for _, entry := range b.logs.All() {
		if text, _ := entry.ContextMap()["gitaly_address"].(string); strings.Contains(text, testSecret) {
			t.Errorf("logged %q", text)
		}
	}
}

func TestGitLabToldNothing(t *testing.T) {
	b := newBed(t, nil)
	without := b.project("full")
	without.Gitaly = nil
	nowhere := b.project("full")
	nowhere.Repository = nil
	nameless := b.project("full")
	nameless.Gitaly.Address = ""
	for _, p := range []backend.Project{without, nowhere, nameless} {
		b.ask(p, func(err error) {
			t.Helper()
			b.wantKind(err, fault.Unavailable, "group/full")
			if fault.HopOf(err) != fault.GitLab {
				t.Errorf("hop %q", fault.HopOf(err))
			}
		})
	}
}

func TestClosedClient(t *testing.T) {
	b := newBed(t, nil)
	b.client.Close()
	b.ask(b.project("full"), func(err error) {
		t.Helper()
		b.wantKind(err, fault.Unavailable, "closed")
	})
	if b.logs.Len() != 0 {
		t.Errorf("logged %v", b.logs.All())
	}
}

func TestOwnDeadlines(t *testing.T) {
	b := newBed(t, nil)
	b.server.Break(double.Fault{Delay: time.Minute})
	for what, ask := range map[string]func(context.Context) error{
		"head": func(ctx context.Context) error { _, err := b.client.Head(ctx, b.project("full")); return err },
		"file": func(ctx context.Context) error {
			_, err := b.client.File(ctx, b.project("full"), oid1, "a", 1)
			return err
		},
		"files": func(ctx context.Context) error {
			_, err := b.client.AgentConfigFiles(ctx, b.project("full"))
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			b.wantKind(ask(ctx), fault.DeadlineExceeded)
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			b.wantKind(ask(ctx), fault.Canceled)
		})
	}
}

// TestSlowServer: its silence is not the agent's deadline.
func TestSlowServer(t *testing.T) {
	b := newBed(t, nil)
	b.server.Break(double.Fault{Delay: time.Minute})
	o, err := b.client.operation(b.project("full"))
	if err != nil {
		t.Fatal(err)
	}
	err = o.call(t.Context(), 20*time.Millisecond, findCommitOnce(o))
	b.wantKind(err, fault.Unavailable, "did not answer in time")
}

// TestUnhealthyPrimary: without a primary any node has to do.
func TestUnhealthyPrimary(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	o, err := b.client.operation(b.project("full"))
	if err != nil {
		t.Fatal(err)
	}
	o.primary = true
	b.server.Break(double.Fault{Code: codes.Internal, Message: "primary gitaly is not healthy", Times: 1})
	if err := o.call(t.Context(), time.Minute, findCommitOnce(o)); err != nil {
		t.Error(err)
	}
	calls := b.server.Calls("FindCommit")
	if len(calls) != 2 || len(calls[0].Metadata.Get(routeKey)) != 1 || len(calls[1].Metadata.Get(routeKey)) != 0 {
		t.Errorf("calls %v", calls)
	}
	b.server.Break(double.Fault{Code: codes.Internal, Message: "primary gitaly is not healthy"})
	b.wantKind(o.call(t.Context(), time.Minute, findCommitOnce(o)), fault.Unavailable, "not healthy")
}
