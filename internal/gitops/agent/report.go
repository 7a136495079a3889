package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gitlab.com/agentk/agentk/api/engine"
)

// workerID is the key of logs that names the worker.
const workerID = "worker_id"

// reasonFailed is the reason of a failure's Event.
const reasonFailed = "SynchronizationFailed"

// maxFields bounds the fields of a line of the engine's log.
const maxFields = 20

// notifyLimit bounds the publishing of one Event.
const notifyLimit = 15 * time.Second

// report tells how synchronisations went: in the log, in metrics, and as Events.
type report struct {
	log     *zap.Logger
	metrics *metrics
	publish func(ctx context.Context, reason, message string)

	mu      sync.Mutex // guards objects
	objects map[string]*engine.Finished
}

func (m *Module) newReport() *report {
	return &report{log: m.cfg.Log, metrics: m.metrics, publish: m.cfg.Notify, objects: map[string]*engine.Finished{}}
}

// finished reports a pass of the engine.
func (r *report) finished(f *engine.Finished) {
	log := r.log.With(zap.String(workerID, f.GetWorker()), zap.String("commit_id", f.GetCommitId()))
	switch {
	case f.GetCancelled():
		r.metrics.syncs.WithLabelValues(resultCanceled).Inc()
		log.Info("Synchronization was canceled")
		return
	case f.GetError() != "":
		r.failed(f.GetWorker(), f.GetCommitId(), errors.New(f.GetError()), 0)
	case f.GetNoop():
		r.metrics.syncs.WithLabelValues(resultUnchanged).Inc()
		log.Debug("Nothing to synchronize", zap.Stringer("reason", f.GetReason()), zap.Duration("duration", f.GetDuration().AsDuration()))
		return
	default:
		r.metrics.syncs.WithLabelValues(resultSucceeded).Inc()
		log.Info("Objects synchronized", zap.Stringer("reason", f.GetReason()), zap.Duration("duration", f.GetDuration().AsDuration()),
			zap.Int32("applied", f.GetApplied()), zap.Int32("pruned", f.GetPruned()), zap.Int32("unchanged", f.GetUnchanged()),
			zap.Int32("skipped", f.GetSkipped()), zap.Int32("failed", f.GetFailed()))
	}
	r.metrics.duration.Observe(f.GetDuration().AsDuration().Seconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.objects[f.GetWorker()] = f
	r.metrics.setObjects(r.objects)
}

// fetchFailed reports that files could not be read, or a project not be put together.
func (r *report) fetchFailed(ctx context.Context, worker string, err error, pause time.Duration) {
	r.failed(worker, "", err, pause)
	if isUserError(err) {
		r.notify(ctx, worker+": "+err.Error())
	}
}

// failed reports a failure. pause is when it is tried again, if agentk does that.
func (r *report) failed(worker, commit string, err error, pause time.Duration) {
	r.metrics.syncs.WithLabelValues(resultFailed).Inc()
	fields := []zap.Field{zap.String(workerID, worker), zap.Error(err)}
	if commit != "" {
		fields = append(fields, zap.String("commit_id", commit))
	}
	if pause > 0 {
		fields = append(fields, zap.Duration("retry_in", pause))
	}
	r.log.Warn("Synchronization failed", fields...)
}

func (r *report) notify(ctx context.Context, message string) {
	if r.publish == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, notifyLimit)
	defer cancel()
	r.publish(ctx, reasonFailed, message)
}

// forget drops what a worker's last pass counts in the metrics.
func (r *report) forget(worker string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.objects, worker)
	r.metrics.setObjects(r.objects)
}

// line writes a line of the engine's log into agentk's.
func (r *report) line(l *engine.Log) {
	level, err := zapcore.ParseLevel(l.GetLevel())
	if err != nil || level > zapcore.ErrorLevel { // the higher ones end the process
		level = zapcore.ErrorLevel
	}
	entry := r.log.Check(level, l.GetMessage())
	if entry == nil {
		return
	}
	var fields []zap.Field
	for key, value := range l.GetFields() {
		if len(fields) < maxFields {
			fields = append(fields, zap.String(key, value))
		}
	}
	entry.Write(fields...)
}
