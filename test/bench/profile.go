package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profile takes CPU profiles of both daemons while one side of a figure is measured once more, for its own sake. It leaves
// <figure>-kas.pprof and <figure>-agentk.pprof in dir, for "go tool pprof -top".
func (s *scene) profile(ctx context.Context, dir, name, agentName string, d time.Duration, load func(context.Context) (float64, error)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds())))
	var wg sync.WaitGroup
	errs := make([]error, 2)
	take := func(i int, daemon string, page func() (string, error)) {
		wg.Go(func() {
			data, err := page()
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name+"-"+daemon+".pprof"), []byte(data), 0o644)
			}
			errs[i] = err
		})
	}
	take(0, "kas", func() (string, error) { return s.l.KasPage(ctx, path) })
	take(1, "agentk", func() (string, error) { return s.l.AgentPage(ctx, agentName, path) })
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		if _, err := load(ctx); err != nil {
			return err
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("profile of %s: %w", name, err)
		}
	}
	return nil
}
