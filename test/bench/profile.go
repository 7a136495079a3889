package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profile takes CPU and allocation profiles of both daemons while one side of a figure is measured once more, for its own sake, if
// profiles are wanted at all. It leaves <name>-<daemon>-cpu.pprof and -alloc.pprof.
func (st *stage) profile(ctx context.Context, s *scene, agentName, name string, load func(context.Context, time.Duration) error) error {
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
			data, err := observe(ctx, filepath.Join(s.l.Dir, of.socket), page)
			if err == nil {
				err = os.WriteFile(filepath.Join(st.profiles, name+"-"+of.daemon+"-"+of.kind+".pprof"), data, 0o644)
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

// observeLimit bounds a page of an observability server; a profile takes its time.
const observeLimit = 30 * time.Second

// observe gets a page of an observability server.
func observe(ctx context.Context, socket, path string) ([]byte, error) {
	client := &http.Client{Timeout: observeLimit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://observability"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return data, err
}
