package main

import (
	"context"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	smallPath   = "/api/v1/namespaces"
	manyClients = 64
)

// reading is one measurement of a load, with the CPU seconds of both daemons meanwhile.
type reading struct {
	loadResult
	cpu float64
}

// getter measures a small GET.
func (s *scene) getter(t target, clients int, name string) func(context.Context, time.Duration) (reading, error) {
	return s.loader(t, smallPath, clients, name)
}

// loader measures a path of a target; name is the agent on the way.
func (s *scene) loader(t target, path string, clients int, name string) func(context.Context, time.Duration) (reading, error) {
	return measuring(t, path, clients, func() (float64, error) { return s.cpu(name) })
}

// measuring measures a path of a target; cpu is what the processes on the way have used so far.
func measuring(t target, path string, clients int, cpu func() (float64, error)) func(context.Context, time.Duration) (reading, error) {
	return func(ctx context.Context, d time.Duration) (reading, error) {
		before, err := cpu()
		if err != nil {
			return reading{}, err
		}
		r, err := t.load(ctx, path, clients, d)
		if err != nil {
			return reading{}, err
		}
		after, err := cpu()
		return reading{loadResult: r, cpu: after - before}, err
	}
}

func (r reading) p50ms() float64 { return float64(r.p50) / float64(time.Millisecond) }
func (r reading) p50us() float64 { return float64(r.p50) / float64(time.Microsecond) }
func (r reading) p99ms() float64 { return float64(r.p99) / float64(time.Millisecond) }

// getOne is what one client feels.
func getOne(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	all, err := st.besideFloors(ctx, s.getter(s.direct, 1, s.agent), s.getter(s.line, 1, s.agent), s.direct, 1)
	if err != nil {
		return nil, err
	}
	rows := []row{figure("get_p50_c1", "ms", pick(all.direct, reading.p50ms), pick(all.line, reading.p50ms), most(ratio, 1.4))}
	rows = append(rows, all.rows("get_p50_c1", "ms", reading.p50ms, goal{})...)
	all, err = st.besideFloors(ctx, s.getter(s.fakeDirect, 1, s.fakeAgent), s.getter(s.fakeLine, 1, s.fakeAgent), s.fakeDirect, 1)
	if err != nil {
		return rows, err
	}
	rows = append(rows, figure("get_p50_fake_us", "us", pick(all.direct, reading.p50us), pick(all.line, reading.p50us), most(plain, 200)))
	return append(rows, all.rows("get_p50_fake_us", "us", reading.p50us, noGoal())...), nil
}

// getMany is what the API server still does for many, and what that costs.
func getMany(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	all, err := st.besideFloors(ctx, s.getter(s.direct, manyClients, s.agent), s.getter(s.line, manyClients, s.agent), s.direct, manyClients)
	if err != nil {
		return nil, err
	}
	perRequest := func(r reading) float64 { return r.cpu / float64(r.requests) * 1000 }
	rows := []row{
		figure("get_rps_c64", "req/s", pick(all.direct, reading.rate), pick(all.line, reading.rate), least(ratio, 0.65)),
		figure("get_p99_c64", "ms", pick(all.direct, reading.p99ms), pick(all.line, reading.p99ms), most(ratio, 1.7)),
		figure("cpu_per_request_ms", "ms", nil, pick(all.line, perRequest), most(plain, 0.25)),
	}
	rows = append(rows, all.rows("get_rps_c64", "req/s", reading.rate, goal{})...)
	all.direct = nil // has no daemons
	rows = append(rows, all.rows("cpu_per_request_ms", "ms", perRequest, noGoal())...)
	// In front of the fake API server more of the processors is left for what the profile is about.
	return rows, st.profile(ctx, s.l, s.fakeAgent, "get_c64", func(ctx context.Context, d time.Duration) error {
		_, err := s.fakeLine.load(ctx, smallPath, manyClients, d)
		return err
	})
}

// overTLS is what it costs that the agent's link is encrypted.
func overTLS(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.scene(ctx, line.WSS)
	if err != nil {
		return nil, err
	}
	direct, through, err := alternate(ctx, st.effort, s.getter(s.direct, manyClients, s.agent), s.getter(s.line, manyClients, s.agent))
	if err != nil {
		return nil, err
	}
	rows := []row{figure("get_rps_c64_wss", "req/s", pick(direct, reading.rate), pick(through, reading.rate), goal{})}
	r, _, err := st.list(ctx, s, "list50_text_wss", bulkText, goal{})
	if err != nil {
		return rows, err
	}
	return append(rows, r), nil
}
