package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// profile takes CPU and allocation profiles of both daemons while one side of a figure is measured once more, for its own sake, if
// profiles are wanted at all. It leaves <name>-<daemon>-cpu.pprof and -alloc.pprof.
func (st *stage) profile(ctx context.Context, l *line.Line, agentName, name string, load func(context.Context, time.Duration) error) error {
	if st.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(st.profiles, 0o755); err != nil {
		return err
	}
	st.progress("profiles of " + name)
	const seconds = 5
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i, of := range []struct{ daemon, socket, kind, page string }{
		{"kas", "kas.sock", "cpu", "profile"},
		{"kas", "kas.sock", "alloc", "allocs"},
		{"agentk", "agentk-" + agentName + ".sock", "cpu", "profile"},
		{"agentk", "agentk-" + agentName + ".sock", "alloc", "allocs"},
	} {
		wg.Go(func() {
			page := fmt.Sprintf("/debug/pprof/%s?seconds=%d", of.page, seconds)
			data, err := unixPage(ctx, filepath.Join(l.Dir, of.socket), page)
			if err == nil {
				err = os.WriteFile(filepath.Join(st.profiles, name+"-"+of.daemon+"-"+of.kind+".pprof"), []byte(data), 0o644)
			}
			errs[i] = err
		})
	}
	for end := time.Now().Add(seconds * time.Second); errs[4] == nil && time.Now().Before(end); {
		errs[4] = load(ctx, time.Until(end))
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("profile of %s: %w", name, err)
	}
	return nil
}
