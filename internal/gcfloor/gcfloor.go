// Package gcfloor spares a busy daemon with a small heap most of its garbage collections. Both daemons keep a few MB alive, so that the
// collector, which starts when the heap has doubled, would run many times a second under load and take a sixth of the processor. While
// much is allocated the heap may grow to a floor before the next collection; a daemon at rest gets no larger by it: when the
// load is over its memory goes back to the system.
package gcfloor

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Floor is the heap, in bytes, below which no collection begins while the daemon is busy.
	Floor = 24 << 20
	// usual is the collector's own percentage. eager is that while what is alive grows above Floor, by more than a part of grown from one
	// collection to the next, as when thousands of agents arrive together: the garbage of their arrival lies between what they keep, and
	// the more of it there is at once, the more holes stay behind for as long as they do.
	usual = 100
	eager = 40
	grown = 8
	// look is how often the load is looked at. Beyond that every collection is followed by a look: it may have found more alive.
	look = time.Second
	// busy is what is allocated per second, in bytes, by a daemon that has something to do. quiet is how many looks with less end that.
	busy  = 2 << 20
	quiet = 3
)

// Names of runtime metrics.
const (
	metricAllocated = "/gc/heap/allocs:bytes"
	metricLive      = "/gc/heap/live:bytes"
	metricStacks    = "/gc/scan/stack:bytes"
	metricGlobals   = "/gc/scan/globals:bytes"
)

// Run works until ctx ends, and then leaves the collector as it was. With GOGC in the environment it does nothing: somebody has decided.
// A limit by GOMEMLIMIT holds beside it, the collector sees to that itself.
func Run(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return nil
	}
	f := newFloor()
	defer f.set(usual)
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	collected := make(chan struct{}, 1)
	watch(collected)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			f.tick()
		case <-collected:
			watch(collected)
			f.early()
		}
	}
}

// mark is something that the next collection finds unused. It holds a pointer, since what holds none may share its fate with others.
type mark struct{ _ *mark }

// watch lets the next collection say that it has been.
func watch(collected chan<- struct{}) {
	runtime.AddCleanup(&mark{}, func(collected chan<- struct{}) {
		select {
		case collected <- struct{}{}:
		default:
		}
	}, collected)
}

// floor is the state of Run.
type floor struct {
	samples []metrics.Sample
	// allocated is what had been allocated at the last tick.
	allocated uint64
	// live is what was alive after the last collection, growing whether that was much more than after the one before.
	live    uint64
	growing bool
	// idle counts ticks without load.
	idle    int
	percent int
}

func newFloor() *floor {
	f := &floor{idle: quiet + 1, percent: usual}
	for _, name := range []string{metricAllocated, metricLive, metricStacks, metricGlobals} {
		f.samples = append(f.samples, metrics.Sample{Name: name})
	}
	metrics.Read(f.samples)
	f.allocated = f.samples[0].Value.Uint64()
	return f
}

// tick looks at the load.
func (f *floor) tick() {
	metrics.Read(f.samples)
	allocated := f.samples[0].Value.Uint64()
	if allocated-f.allocated >= busy {
		f.idle = 0
	} else {
		f.idle++
	}
	f.allocated = allocated
	f.adjust()
	if f.idle == quiet {
		// The garbage of the load is still there, and would be for minutes.
		debug.FreeOSMemory()
	}
}

// early looks at the load after a collection: a burst allocates within a moment what makes a daemon busy, and would have gone through
// several collections, each of which holds it up, before the next tick.
func (f *floor) early() {
	metrics.Read(f.samples)
	if f.samples[0].Value.Uint64()-f.allocated >= busy {
		f.idle = 0
	}
	f.grew(f.samples[1].Value.Uint64())
	f.adjust()
}

// grew notes what is alive after a collection.
func (f *floor) grew(live uint64) {
	f.growing = live >= Floor && live-live/grown > f.live
	f.live = live
}

// adjust sets the percentage that fits what is alive.
func (f *floor) adjust() {
	switch {
	case f.idle >= quiet:
		f.set(usual)
	case f.growing:
		f.set(eager)
	default:
		metrics.Read(f.samples)
		f.set(percent(f.samples[1].Value.Uint64(), f.samples[2].Value.Uint64()+f.samples[3].Value.Uint64()))
	}
}

// percent makes the collector begin at Floor: it begins when what was allocated since the last collection is that part of what was
// alive then, stacks and globals (roots) included.
func percent(live, roots uint64) int {
	if live >= Floor || live+roots == 0 {
		return usual
	}
	return max(usual, int((Floor-live)*100/(live+roots)))
}

// set spares the collector small changes, which stop the world.
func (f *floor) set(percent int) {
	if change := percent - f.percent; change == 0 || percent != usual && change*change < f.percent*f.percent/100 {
		return
	}
	f.percent = percent
	debug.SetGCPercent(percent)
}
