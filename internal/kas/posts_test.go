package kas

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/gitlab"
)

// rails takes configurations, or does not.
type rails struct {
	mu    sync.Mutex
	err   error
	wait  chan struct{}
	taken []string
	asked int
}

func (r *rails) PostConfiguration(ctx context.Context, agentID int64, file *agentcfg.ConfigurationFile) error {
	r.mu.Lock()
	r.asked++
	err, wait := r.err, r.wait
	r.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, fmt.Sprintf("%d %s", agentID, file.GetObservability().GetLogging().GetLevel()))
	return nil
}

func (r *rails) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *rails) want(t *testing.T, asked int, taken ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(taken, r.taken); diff != "" || r.asked != asked {
		t.Errorf("asked %d times, want %d\n%s", r.asked, asked, diff)
	}
}

// file is a configuration that can be told from others.
func file(level agentcfg.LogLevelEnum) *agentcfg.ConfigurationFile {
	return &agentcfg.ConfigurationFile{Observability: &agentcfg.ObservabilityCF{Logging: &agentcfg.LoggingCF{Level: level}}}
}

// newTestPosts runs posts in a bubble; stop ends it.
func newTestPosts(r *rails) (p *posts, logs *observer.ObservedLogs, stop func()) {
	core, logs := observer.New(zapcore.DebugLevel)
	p = newPosts(r, zap.New(core))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.run(ctx) }()
	return p, logs, func() { cancel(); <-done }
}

func TestPosts_AgainUntilTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rails{err: fault.New(fault.Unavailable, fault.GitLab, "down")}
		p, _, stop := newTestPosts(r)
		defer stop()
		p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_debug))
		p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_warn))
		p.configured(t.Context(), backend.Agent{ID: 8}, nil)
		r.want(t, 3)
		time.Sleep(postAgain)
		synctest.Wait()
		r.want(t, 5)
		r.set(nil)
		time.Sleep(10 * postAgain)
		synctest.Wait()
		if len(r.taken) == 2 && strings.HasPrefix(r.taken[0], "8") {
			r.taken[0], r.taken[1] = r.taken[1], r.taken[0]
		}
		r.want(t, 7, "7 warn", "8 info")
	})
}

// The newest configuration is posted last, whatever waits.
func TestPosts_OneAtATimeNewestLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rails{wait: make(chan struct{})}
		p, _, stop := newTestPosts(r)
		defer stop()
		var callers sync.WaitGroup
		callers.Go(func() { p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_debug)) })
		synctest.Wait()
		p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_warn))
		p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_error))
		r.want(t, 1)
		close(r.wait)
		callers.Wait()
		r.want(t, 2, "7 debug", "7 error")
		if len(p.waiting) > 0 {
			t.Error("something is left")
		}
	})
}

func TestPosts_GivesUp(t *testing.T) {
	for _, tt := range []struct {
		err   error
		level zapcore.Level
	}{
		{fault.New(fault.NotFound, fault.GitLab, "no"), zapcore.DebugLevel},
		{fault.New(fault.InvalidArgument, fault.GitLab, "no"), zapcore.ErrorLevel},
		{fmt.Errorf("post: %w", &gitlab.StatusError{Code: 400}), zapcore.ErrorLevel},
		{fmt.Errorf("post: %w", &gitlab.StatusError{Code: 413}), zapcore.ErrorLevel},
		{fmt.Errorf("post: %w", &gitlab.StatusError{Code: 422}), zapcore.ErrorLevel},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &rails{err: tt.err}
			p, logs, stop := newTestPosts(r)
			defer stop()
			p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_debug))
			time.Sleep(10 * postAgain)
			synctest.Wait()
			r.want(t, 1)
			if logs.Len() != 1 || logs.All()[0].Level != tt.level {
				t.Errorf("%v: logged %v", tt.err, logs.All())
			}
		})
	}
}

// What GitLab does not take because of what it is, it will not take half a minute later. Other refusals may be those of a proxy.
func TestPosts_RefusedContentIsPostedOnce(t *testing.T) {
	for code, want := range map[int]int{400: 1, 413: 1, 422: 1, 403: 11, 405: 11, 409: 11, 500: 11} {
		synctest.Test(t, func(t *testing.T) {
			refusal := fmt.Errorf("post: %w", &gitlab.StatusError{Code: code, Path: "/api"})
			r := &rails{err: refusal}
			p, logs, stop := newTestPosts(r)
			defer stop()
			p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_debug))
			time.Sleep(10 * postAgain)
			synctest.Wait()
			r.want(t, want)
			if n := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); (n == 1) != (want == 1) {
				t.Errorf("status %d: logged %v", code, logs.All())
			}
			// Another file is posted, whatever became of the one before.
			r.set(nil)
			p.configured(t.Context(), backend.Agent{ID: 7}, file(agentcfg.LogLevelEnum_warn))
			r.want(t, want+1, "7 warn")
		})
	}
}

func TestPosts_ReportsListsOverTheCap(t *testing.T) {
	r := &rails{}
	core, logs := observer.New(zapcore.WarnLevel)
	access := &agentcfg.CiAccessCF{}
	for i := range 501 {
		access.Projects = append(access.Projects, &agentcfg.CiAccessProjectCF{Id: fmt.Sprintf("p/%d", i)})
	}
	newPosts(r, zap.New(core)).configured(t.Context(), backend.Agent{ID: 7, Project: backend.Project{Path: "acme/infra"}}, &agentcfg.ConfigurationFile{CiAccess: access})
	if logs.Len() != 1 || !strings.Contains(logs.All()[0].Message, "ci_access.projects has 501 entries, GitLab uses 500") {
		t.Errorf("logged %v", logs.All())
	}
	r.want(t, 1, "7 info")
}

func TestPosts_Bounded(t *testing.T) {
	r := &rails{err: fault.New(fault.Unavailable, fault.GitLab, "down")}
	p := newPosts(r, zap.NewNop())
	for id := range int64(maxPosts + 10) {
		p.configured(t.Context(), backend.Agent{ID: id}, nil)
	}
	if len(p.waiting) != maxPosts {
		t.Errorf("%d wait", len(p.waiting))
	}
}
