package standalone

import (
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	// debounce joins the several events of one change, such as a push or the swap of a mounted Secret.
	debounce = 100 * time.Millisecond
	// pollInterval is how late a change is noticed at worst, where the file system tells nothing (NFS, a full watch table).
	pollInterval = 5 * time.Second
	// firstScanTimeout bounds how long New looks at repositories.
	firstScanTimeout = 10 * time.Second
)

// watcher tells about changes in folders (not below them). Where the system offers no notification it stays silent for ever;
// its users poll as well.
type watcher struct {
	notify *fsnotify.Watcher // nil: not available
	log    *zap.Logger
	failed bool
}

func newWatcher(log *zap.Logger) *watcher {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("File change notification is not available, polling only", zap.Duration("interval", pollInterval), zap.Error(err))
		return &watcher{log: log, failed: true}
	}
	return &watcher{notify: n, log: log}
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

// errors delivers lost events and the like: whoever gets one must look at everything.
func (w *watcher) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

// add watches a folder. Watching one that is watched already costs nothing.
func (w *watcher) add(dir string) {
	if w.notify == nil {
		return
	}
	err := w.notify.Add(dir)
	if err != nil && !w.failed {
		w.failed = true
		w.log.Warn("Some folders cannot be watched, polling them", zap.Duration("interval", pollInterval), zap.String("reason", reason(err)))
	}
}

// keep stops watching whatever is not wanted.
func (w *watcher) keep(wanted func(dir string) bool) {
	if w.notify == nil {
		return
	}
	for _, dir := range w.notify.WatchList() {
		if !wanted(dir) {
			// It fails only if the folder is gone, and its watch with it.
			_ = w.notify.Remove(dir)
		}
	}
}
