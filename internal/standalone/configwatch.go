package standalone

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// watchConfig keeps the live section equal to the configuration file.
func (b *Backend) watchConfig(ctx context.Context) {
	if b.cfg.ConfigPath == "" {
		return
	}
	w := newWatcher(b.cfg.Log)
	defer w.close()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	var live configVersion
	check := func() {
		watchFile(w, b.cfg.ConfigPath)
		// The version is taken before the file is read for use: a change in between is seen at the next check.
		now, err := versionOf(b.cfg.ConfigPath)
		if err == nil && live.good && live.sum == now {
			return
		}
		live = b.reload(now, live)
	}
	check()
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.events():
			if settled == nil {
				settled = time.After(debounce)
			}
		case <-w.errors():
			check()
		case <-poll.C:
			check()
		case <-settled:
			settled = nil
			check()
		}
	}
}

// watchFile watches the folder that names the file and, if that is a link, the folder that holds it: a mounted Secret changes by
// swapping a link, an editor by renaming over the file.
func watchFile(w *watcher, path string) {
	wanted := map[string]bool{filepath.Dir(path): true}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		wanted[filepath.Dir(target)] = true
	}
	w.keep(func(dir string) bool { return wanted[dir] })
	for dir := range wanted {
		w.add(dir)
	}
}

// configVersion is what became of the configuration file at the last look.
type configVersion struct {
	sum  [sha256.Size]byte
	good bool
	// problem is why it is not good, to log it once.
	problem string
}

func versionOf(path string) ([sha256.Size]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(data), nil
}

// reload makes the section of the file live if it is valid. Otherwise the last good one stays, and the file is tried again at
// every look, for the mistake may be outside of it.
func (b *Backend) reload(sum [sha256.Size]byte, last configVersion) configVersion {
	sec, err := b.readSection()
	if err != nil {
		b.valid.Set(0)
		now := configVersion{sum: sum, problem: err.Error()}
		if now != last {
			b.cfg.Log.Error("Configuration file is invalid, the last good standalone section stays live",
				zap.String("path", b.cfg.ConfigPath), zap.Error(err))
		}
		return now
	}
	b.valid.Set(1)
	if !proto.Equal(sec.file, b.section.Load().file) {
		b.install(sec)
	}
	return configVersion{sum: sum, good: true}
}

func (b *Backend) install(sec *section) {
	b.section.Store(sec)
	b.configs.forget(sec)
	b.cfg.Log.Info("Standalone section reloaded", zap.String("path", b.cfg.ConfigPath),
		zap.Int("projects", len(sec.projects)), zap.Int("agents", len(sec.agents)), zap.Int("jobs", len(sec.jobs)))
	select {
	case b.reloaded <- struct{}{}:
	default:
	}
	b.changed.fire()
}

func (b *Backend) readSection() (*section, error) {
	file, err := b.cfg.Reload()
	if err != nil {
		return nil, err
	}
	if file == nil {
		return nil, errors.New("section standalone is missing; to leave this mode kas must be restarted")
	}
	return newSection(file)
}
