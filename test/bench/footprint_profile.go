package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// profiles leaves heap and goroutine profiles of a process in the folder that PROFILE names, if it does.
func profiles(ctx context.Context, figure string, w watched) error {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, kind := range []string{"heap", "goroutine"} {
		data, err := w.page(ctx, "/debug/pprof/"+kind+"?gc=1")
		if err != nil {
			return fmt.Errorf("%s profile of %s: %w", kind, w.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, figure+"-"+w.name+"-"+kind+".pprof"), []byte(data), 0o644); err != nil {
			return err
		}
	}
	return nil
}
