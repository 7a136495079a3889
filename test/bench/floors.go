package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"gitlab.com/agentk/agentk/test/bench/floor"
	"gitlab.com/agentk/agentk/test/line"
)

// floorCommand, before other arguments, turns this program into a part of the barest line.
const floorCommand = "floor"

// barest is a barest line in front of an API server: two processes.
type barest struct {
	dir                string
	front, relay, back *child // relay may be nil
	through            target
}

// startBarest starts a form of it, with a relay in it or not. It is asked with what the API server is asked with directly, which it passes
// on as it is.
func startBarest(form string, api target, relayed bool) (*barest, error) {
	dir, err := os.MkdirTemp("", "bench-floor-")
	if err != nil {
		return nil, err
	}
	b := &barest{dir: dir}
	if err := b.start(form, api, relayed); err != nil {
		b.stop()
		return nil, fmt.Errorf("floor: %w", err)
	}
	return b, nil
}

func (b *barest) start(form string, api target, relayed bool) error {
	authority, err := line.NewAuthority(b.dir)
	if err != nil {
		return err
	}
	certificate, key, err := authority.Issue("front", "127.0.0.1")
	if err != nil {
		return err
	}
	host, err := api.host()
	if err != nil {
		return err
	}
	if b.back, err = startChild([]string{floorCommand, floor.Back, form, host, api.authority}); err != nil {
		return err
	}
	next := b.back.address
	if relayed {
		if b.relay, err = startChild([]string{floorCommand, floor.Relay, next}); err != nil {
			return err
		}
		next = b.relay.address
	}
	if b.front, err = startChild([]string{floorCommand, floor.Front, form, next, certificate, key}); err != nil {
		return err
	}
	b.through = target{
		client: newClient(authority.Pool), base: "https://" + b.front.address, header: api.header, authority: authority.File,
	}
	return nil
}

func (b *barest) stop() {
	b.front.stop()
	b.relay.stop()
	b.back.stop()
	_ = os.RemoveAll(b.dir)
}

// get measures a small GET as a scene's getter does.
func (b *barest) get(clients int) func(context.Context, time.Duration) (reading, error) {
	return measuring(b.through, smallPath, clients, b.cpu)
}

// cpu is what both processes have used so far, in seconds.
func (b *barest) cpu() (float64, error) { return cpuOf(b.front.pid(), b.back.pid()) }

// floors are samples of both sides, and of the barest line in its forms, taken in turn.
type floors struct{ direct, line, requests, lean, pipe []reading }

// besideFloors measures both sides, and the floors in front of the API server that is asked directly.
func (st *stage) besideFloors(
	ctx context.Context, direct, through func(context.Context, time.Duration) (reading, error), api target, clients int,
) (floors, error) {
	requests, err := startBarest(floor.Requests, api, false)
	if err != nil {
		return floors{}, err
	}
	defer requests.stop()
	lean, err := startBarest(floor.Lean, api, false)
	if err != nil {
		return floors{}, err
	}
	defer lean.stop()
	pipe, err := startBarest(floor.Pipe, api, false)
	if err != nil {
		return floors{}, err
	}
	defer pipe.stop()
	samples, err := takeTurns(ctx, st.effort, []side[reading]{
		{name: "direct", take: direct},
		{name: "through the line", take: through},
		{name: "through the floor", take: requests.get(clients), short: true},
		{name: "through the lean floor", take: lean.get(clients), short: true},
		{name: "through the pipe", take: pipe.get(clients), short: true},
	})
	if err != nil {
		return floors{}, err
	}
	return floors{samples[0], samples[1], samples[2], samples[3], samples[4]}, nil
}

// rows are the floors of a figure, in all forms. The goal is none; it says what min and max are about.
func (f floors) rows(name, unit string, of func(reading) float64, about goal) []row {
	direct := pick(f.direct, of)
	return []row{
		figure("floor_"+name, unit, direct, pick(f.requests, of), about),
		figure("floor_lean_"+name, unit, direct, pick(f.lean, of), about),
		figure("floor_pipe_"+name, unit, direct, pick(f.pipe, of), about),
	}
}
