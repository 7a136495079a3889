package main

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"

	"gitlab.com/agentk/agentk/test/bench/floor"
)

// floorRows are bursts through the barest line, over as many connections and in front of the same API server.
func (b *edge) floorRows(ctx context.Context, e effort) ([]row, error) {
	api := target{
		base: b.api.url, authority: filepath.Join(b.dir, "ca.crt"),
		header: http.Header{"Authorization": {"Bearer none"}, "Impersonate-User": {"somebody"}},
	}
	f, err := startBarest(floor.Requests, api, false)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	conns, err := f.through.wires(ctx, podsPath, burstClients)
	defer closeWires(conns)
	if err != nil {
		return nil, err
	}
	var took, cpu []float64
	for range burstRounds {
		before, err := f.cpu()
		if err != nil {
			return nil, err
		}
		all, err := allAtOnce(len(conns), func(i int) error {
			_, err := conns[i].get()
			return err
		})
		if err != nil {
			return nil, err
		}
		after, err := f.cpu()
		if err != nil {
			return nil, err
		}
		took, cpu = append(took, percentile(all, 0.99)), append(cpu, 1e3*(after-before))
	}
	rows := []row{atMost(e, "floor_burst500_p99_ms", "ms", median(took), 0), atMost(e, "floor_burst500_cpu_ms", "ms", median(cpu), 0)}
	for i, values := range [][]float64{took, cpu} {
		rows[i].Min, rows[i].Max = slices.Min(values), slices.Max(values)
	}
	return rows, nil
}

// wires opens n connections, one after the other, and asks once over each.
func (t target) wires(ctx context.Context, path string, n int) ([]*wire, error) {
	var all []*wire
	for range n {
		w, err := t.wire(ctx, path, 0)
		if err != nil {
			return all, err
		}
		all = append(all, w)
		if _, err := w.get(); err != nil {
			return all, err
		}
	}
	return all, nil
}

func closeWires(all []*wire) {
	for _, w := range all {
		w.close()
	}
}
