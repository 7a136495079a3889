package engine

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/cli-utils/pkg/common"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
	"gitlab.com/agentk/agentk/internal/gitops/engine/publish"
	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

const (
	// showTimeout bounds the writing of status and Event.
	showTimeout = 10 * time.Second
	// progressInterval is how often the status is written while a run goes on.
	progressInterval = 10 * time.Second
)

// shown is what people were shown of a worker, over all its jobs.
type shown struct {
	writer      *publish.Writer
	lastSuccess string
	objects     []status.Object // of the newest run that came to objects
	running     *unfinished     // nil: nobody was shown that a run goes on
}

// quiet says that nothing may be written: a client-side dry run sends no change, not even its own status.
func (s *synchronisation) quiet() bool { return s.unit.options.DryRun == common.DryRunClient }

// clients are the account's own way to the API server, and the engine's in case that may not write the status.
func (s *synchronisation) clients(ctx context.Context) ([]dynamic.Interface, error) {
	var all []dynamic.Interface
	accounts := []string{s.unit.account}
	if s.unit.account != "" {
		accounts = append(accounts, "")
	}
	for _, account := range accounts {
		access, err := s.worker.engine.cluster.As(account)
		if err != nil {
			continue
		}
		client, err := access.Client(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, client.Dynamic)
	}
	return all, nil
}

// writer is that of the unit.
func (s *synchronisation) writer() *publish.Writer {
	sh := s.worker.shown
	if sh.writer == nil || sh.writer.Namespace != s.unit.namespace || sh.writer.ID != s.unit.id {
		sh.writer = &publish.Writer{
			AgentID:   s.worker.engine.setup.GetAgentId(),
			Namespace: s.unit.namespace,
			ID:        s.unit.id,
			Manager:   apply.Manager,
			Reporter:  s.worker.engine.setup.GetPodName(),
		}
	}
	return sh.writer
}

func (s *synchronisation) document(begun time.Time, f *engine.Finished) status.Document {
	return status.Document{
		Unit: s.unit.title, State: status.Running, Commit: s.unit.commit, Reason: reasonName(f.GetReason()),
		Started: begun, LastSuccess: s.worker.shown.lastSuccess, Inventory: s.unit.id,
		DryRun: dryRunNames[s.unit.options.DryRun], Objects: s.worker.shown.objects,
	}
}

var dryRunNames = map[common.DryRunStrategy]string{common.DryRunServer: "server", common.DryRunClient: "client"}

func reasonName(r engine.Finished_Reason) string {
	switch r {
	case engine.Finished_INTERVAL:
		return "interval"
	case engine.Finished_WATCH:
		return "watch"
	case engine.Finished_RETRY:
		return "retry"
	}
	return "commit"
}

// progress writes the status of a run that goes on: when it starts on a new commit, and then every few seconds if anything changed.
func (s *synchronisation) progress(ctx context.Context, f *engine.Finished) func(*apply.Result) {
	begun := time.Now()
	last := begun
	d := s.document(begun, f)
	results := map[string]*apply.Result{}
	write := func() {
		if s.quiet() {
			return
		}
		d.Objects = objects(results)
		s.worker.shown.running = &unfinished{sync: s, document: d}
		s.write(ctx, d, "debug")
	}
	if f.GetReason() == engine.Finished_COMMIT {
		write()
	}
	return func(r *apply.Result) {
		results[r.ID.String()] = r
		if time.Since(last) < progressInterval {
			return
		}
		last = time.Now()
		write()
	}
}

// write stores a document; that it could not be is worth a log line and no more. A running one may lack its namespace yet.
func (s *synchronisation) write(ctx context.Context, d status.Document, level string) {
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	clients, err := s.clients(ctx)
	if err == nil {
		err = s.writer().Write(ctx, d, clients...)
	}
	if err != nil {
		s.worker.log(level, "Status was not written", s.unit.commit, map[string]string{"error": err.Error()})
	}
}

// show writes status and Event of a pass that is over.
func (s *synchronisation) show(ctx context.Context, begun time.Time, f *engine.Finished, out *apply.Outcome) {
	sh := s.worker.shown
	if f.GetError() == "" {
		sh.lastSuccess = s.unit.commit
	}
	if out != nil {
		sh.objects = objectsOf(out)
	}
	if s.quiet() {
		return
	}
	d := s.document(begun, f)
	now := time.Now()
	d.Finished, d.State = &now, status.Succeeded
	if f.GetError() != "" {
		d.State, d.Error, d.UserError = status.Failed, f.GetError(), f.GetUserError()
	}
	d.Counts = countsOf(f)
	sh.running = nil
	s.write(ctx, d, "warn")
	s.event(ctx, f)
}

// hold shows that nothing is done, and why.
func (s *synchronisation) hold(ctx context.Context, reason string) {
	report := &engine.Finished{CommitId: s.unit.commit, Error: reason, UserError: true}
	s.show(ctx, time.Now(), report, nil)
	s.worker.finished(report)
}

func (s *synchronisation) event(ctx context.Context, f *engine.Finished) {
	kind, reason := corev1.EventTypeNormal, publish.SyncSucceeded
	message := fmt.Sprintf("commit %s: %d applied, %d pruned, %d unchanged, %d skipped",
		f.GetCommitId(), f.GetApplied(), f.GetPruned(), f.GetUnchanged(), f.GetSkipped())
	switch {
	case f.GetError() != "":
		kind, reason = corev1.EventTypeWarning, publish.SyncFailed
		message = fmt.Sprintf("commit %s: %s", f.GetCommitId(), f.GetError())
	case s.corrects:
		reason = publish.DriftCorrected
	}
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	clients, err := s.clients(ctx)
	if err == nil {
		err = s.writer().Event(ctx, kind, reason, message, clients...)
	}
	if err != nil {
		s.worker.log("warn", "Event was not written", s.unit.commit, map[string]string{"error": err.Error()})
	}
}

func countsOf(f *engine.Finished) status.Counts {
	return status.Counts{
		Applied: f.GetApplied(), Pruned: f.GetPruned(), Unchanged: f.GetUnchanged(), Skipped: f.GetSkipped(), Failed: f.GetFailed(),
	}
}

// objectsOf are those of a whole run.
func objectsOf(out *apply.Outcome) []status.Object {
	results := make(map[string]*apply.Result, len(out.Results))
	for id, r := range out.Results {
		results[id.String()] = r
	}
	return objects(results)
}

// objects turns results into what is shown.
func objects(results map[string]*apply.Result) []status.Object {
	all := make([]status.Object, 0, len(results))
	for _, r := range results {
		o := status.Object{
			Group: r.ID.GroupKind.Group, Kind: r.ID.GroupKind.Kind, Namespace: r.ID.Namespace, Name: r.ID.Name,
			File: r.Source.File, Line: r.Source.Line,
			Action: string(r.Action), Result: string(r.State), Status: string(r.Status), Message: r.Message,
		}
		if r.Problem != nil {
			o.Error = r.Problem.Reason
		}
		all = append(all, o)
	}
	return all
}
