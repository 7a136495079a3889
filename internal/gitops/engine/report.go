package engine

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// count sums up the results of a run.
func count(f *engine.Finished, out *apply.Outcome) {
	for _, r := range out.Results {
		switch {
		case r.State == apply.Skipped, r.State == apply.Pending:
			f.Skipped++
		case r.Problem != nil || r.State == apply.Failed:
			f.Failed++
		case r.Action == apply.ActionPrune:
			f.Pruned++
		case r.Unchanged:
			f.Unchanged++
		default:
			f.Applied++
		}
	}
}

// log writes a line about the worker to agentk's log.
func (w *worker) log(level, message, commit string, fields map[string]string) {
	all := map[string]string{"worker_id": w.name, "commit_id": commit}
	maps.Copy(all, fields)
	w.engine.send.log(level, message, all)
}

// logDryRun says what would have been done: the only trace that a client-side dry run leaves. Repetitions are for whoever debugs.
func (w *worker) logDryRun(f *engine.Finished, out *apply.Outcome) {
	level := "debug"
	if f.GetReason() == engine.Finished_COMMIT {
		level = "info"
	}
	for _, id := range slices.SortedFunc(maps.Keys(out.Results), func(a, b object.ObjMetadata) int {
		return strings.Compare(a.String(), b.String())
	}) {
		r := out.Results[id]
		fields := map[string]string{"object": plan.Name(id), "action": string(r.Action), "result": string(r.State)}
		if r.Problem != nil {
			fields["error"] = r.Problem.Error()
		}
		w.log(level, "Dry run", f.GetCommitId(), fields)
	}
}
