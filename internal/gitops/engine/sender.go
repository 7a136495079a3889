package engine

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
)

// sender speaks to agentk. When nobody listens any more it ends the engine.
type sender struct {
	out  *stdio.Writer
	lost func()
}

func (s *sender) message(m *engine.FromEngine) {
	if err := s.out.Write(m); err != nil {
		s.lost()
	}
}

func (s *sender) log(level, message string, fields map[string]string) {
	s.message(&engine.FromEngine{Message: &engine.FromEngine_Log{Log: &engine.Log{Level: level, Message: message, Fields: fields}}})
}

// sendMetrics reports the process's own figures until ctx ends.
func sendMetrics(ctx context.Context, every time.Duration, s *sender) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		s.message(&engine.FromEngine{Message: &engine.FromEngine_Metrics{Metrics: &engine.Metrics{
			ResidentBytes: residentBytes(),
			CpuSeconds:    cpuSeconds(),
			Goroutines:    int64(runtime.NumGoroutine()),
		}}})
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// residentBytes reads the second figure of /proc/self/statm, in pages. Zero where there is no such file.
func residentBytes() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// cpuSeconds is user and system time of the process.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime)
}
