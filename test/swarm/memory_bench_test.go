package swarm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// settled is how long kas may rest before its memory is looked at: what the runtime gives back, it gives back meanwhile.
const settled = 5 * time.Second

// BenchmarkIdleAgent is what an idle agent costs kas: GetConfiguration and two parked streams over ws://. Give it the number of agents:
//
//	go test ./test/swarm -run '^$' -bench IdleAgent -benchtime 2000x
func BenchmarkIdleAgent(b *testing.B) {
	dir, err := os.MkdirTemp("", "swarm-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	k, err := NewKas(b.Context(), dir, b.N)
	if err != nil {
		b.Fatal(err)
	}
	if err := k.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(k.Kill)
	before, err := k.memory(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	s, err := Start(b.Context(), Config{Agents: b.N, KasURL: k.URL, Token: Token})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Stop(); err != nil {
			b.Error(err)
		}
	})
	line.Eventually(b.Context(), b, "all agents are connected", func(ctx context.Context) error {
		page, err := k.Page(ctx, "/metrics")
		if err != nil {
			return err
		}
		if idle, _ := line.Metric(page, `kas_tunnels{state="idle"}`); idle != strconv.Itoa(2*b.N) {
			return fmt.Errorf("%s streams are parked", idle)
		}
		return nil
	})
	after, err := k.memory(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for i, unit := range memoryUnits {
		b.ReportMetric((after[i]-before[i])/float64(b.N), unit+"/agent")
	}
}

var memoryUnits = [...]string{"RSS-KB", "heap-KB", "stack-KB", "goroutines"}

// memory is what kas holds after a rest and a collection, in memoryUnits.
func (k *Kas) memory(ctx context.Context) ([len(memoryUnits)]float64, error) {
	var m [len(memoryUnits)]float64
	for range 2 {
		if _, err := k.Page(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return m, err
		}
	}
	select {
	case <-time.After(settled):
	case <-ctx.Done():
		return m, ctx.Err()
	}
	page, err := k.Page(ctx, "/metrics")
	if err != nil {
		return m, err
	}
	for i, name := range []string{"", "go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes", "go_goroutines"} {
		text, _ := line.Metric(page, name)
		m[i], _ = strconv.ParseFloat(text, 64)
	}
	m[1], m[2] = m[1]/1024, m[2]/1024
	m[0], err = residentKB(k.PID())
	return m, err
}

// residentKB is the memory of a process that is in use, in KB.
func residentKB(pid int) (float64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(text, "VmRSS:"); ok {
			return strconv.ParseFloat(strings.Fields(value)[0], 64)
		}
	}
	return 0, errors.New("the process has no VmRSS")
}
