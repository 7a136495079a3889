//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
	"gitlab.com/agentk/agentk/test/line"
)

// Somebody asks for 100 MB and does not read: nobody else may notice, and no daemon may keep the bytes.
func TestSlowReader_Of100MB_OthersAreUnaffected(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, doubleID)
	const size = 100_000_000
	for _, k := range []*fleet.Kas{holds, other} {
		response, err := open(soon(t), f, via(k), doubled, fmt.Sprintf("/bytes?n=%d", size))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, response.Body, 1<<20); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			started := time.Now()
			if err := ok(ask(soon(t), f, via(k), doubled, "/version")); err != nil {
				t.Errorf("beside the slow reader: %v", err)
			}
			if took := time.Since(started); took > 2*time.Second {
				t.Errorf("beside the slow reader a request took %s", took)
			}
		}
		for _, one := range f.Kas {
			if heap := metric(t, one, "go_memstats_heap_inuse_bytes"); heap > 64<<20 {
				t.Errorf("%s holds %.0f MB", one.Name, heap/1e6)
			}
		}
		if n, err := io.Copy(io.Discard, response.Body); err != nil || n != size-1<<20 {
			t.Errorf("then the reader read on: %d bytes, %v", n, err)
		}
		response.Body.Close()
	}
}

// One token, fifty processes: an installation with many replicas, or a mistake. All are connected, and requests are served.
func TestSameToken_FiftyAgents(t *testing.T) {
	const processes = 50
	cfg := fleet.Config{ControlPlane: cluster, Agents: []line.Agent{{ID: demoID, Name: demo, Project: "acme/infra"}}}
	for i := range processes - 1 {
		cfg.Agents = append(cfg.Agents, line.Agent{Name: fmt.Sprintf("%s-%d", demo, i+1), PodOf: demo, Manual: true})
	}
	f := start(t, cfg)
	var all sync.WaitGroup
	errs := make([]error, processes)
	room := make(chan struct{}, 8)
	for i, a := range cfg.Agents[1:] {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			errs[i] = f.StartAgent(soon(t), a.Name)
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	tr := begin(t, f)
	calm()
	tr.end(t)
	for _, a := range cfg.Agents[1:] {
		all.Go(func() {
			if _, err := f.StopAgent(soon(t), a.Name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, "only the first one is left", func(ctx context.Context) error {
		urls, err := f.Locations(ctx, demoID)
		if err == nil && len(urls) != 1 {
			err = fmt.Errorf("%v", urls)
		}
		return err
	})
	if err := ok(ask(soon(t), f, front(f), demo, word)); err != nil {
		t.Errorf("the first one: %v", err)
	}
}
