package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
)

const (
	// maxRounds is how often the engine may ask for further directories of one commit.
	maxRounds = 10
	// maxNeeds is how many directories it may ask for, so that they fit into one request beside those of the configuration.
	maxNeeds = maxPaths / 2
	// valuesFile is what the engine is told is the name of values that come from a URL.
	valuesFile = "values.yaml"
)

// errEngine means that the engine is gone, which ends all workers and is told once.
var errEngine = errors.New("the GitOps engine is gone")

// worker brings one unit's sources together and makes the engine run them.
type worker struct {
	unit    unit
	send    func(*engine.ToEngine) error
	fetch   fetcher
	values  *valuesReader
	timing  timing
	policy  backoff.Policy
	log     *zap.Logger
	report  *report
	needs   chan *engine.Need // the newest one only
	cancel  context.CancelFunc
	stopped chan struct{}
	// held is for how long the unit is held back; nil: it is not. release is called with the unit's id when that is over.
	held    *hold
	release func(id string)
	// begun is the newest run that was begun.
	begun atomic.Pointer[engine.Begin]

	// All below is the worker's own. news is what is known of each source, and nil where nothing is.
	news []*news
	// fetched are the directories that the engine asked for, and rounds how often it did so for the commit.
	fetched []string
	rounds  int
	retry   *backoff.Backoff
	again   <-chan time.Time // when a need is tried again
}

// news is the newest that is known of a source.
type news struct {
	commit  string
	project int64
	content []byte
}

// run works until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer close(w.stopped)
	if w.held != nil && !w.sitOut(ctx) {
		return
	}
	w.news = make([]*news, len(w.unit.sources))
	w.retry = backoff.New(w.policy)
	offers := make(chan offer)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	for i, s := range w.unit.sources {
		watch := &watcher{
			source: i, offers: offers, failed: w.failed(ctx), fetch: w.fetch, values: w.values, timing: w.timing, policy: w.policy,
		}
		watchers.Go(func() {
			if s.repository != nil {
				watch.repository(ctx, s.repository)
				return
			}
			watch.url(ctx, s.values)
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-offers:
			o.verdict <- w.take(ctx, o)
		case n := <-w.needs:
			w.supply(ctx, n)
		case <-w.again:
			w.repeat(ctx)
		}
	}
}

// sitOut lets the engine show that the unit is held back, and waits until that is over; false: ctx has ended.
func (w *worker) sitOut(ctx context.Context) bool {
	if w.tell(&engine.ToEngine{Message: &engine.ToEngine_Begin{Begin: w.held.announcement()}}) != nil ||
		w.tell(&engine.ToEngine{Message: &engine.ToEngine_Run{Run: &engine.Run{Worker: w.unit.id}}}) != nil ||
		!sleep(ctx, time.Until(w.held.soonest)) {
		return false
	}
	waits, cancel := context.WithDeadline(ctx, w.held.until)
	defer cancel()
	retry := backoff.New(w.policy)
	for r := w.unit.sources[0].repository; waits.Err() == nil; {
		b, err := w.fetch.open(waits, r, r.paths, r.ref, commitOf(w.held.begin))
		if err == nil { // a newer commit, which is read later
			b.close()
			break
		}
		pause := w.timing.shortest
		if !errors.Is(err, errNothing) {
			pause = max(pause, retry.Next())
		}
		sleep(waits, pause)
	}
	if ctx.Err() != nil {
		return false
	}
	w.release(w.unit.id)
	return true
}

// failed reports what a watcher could not do.
func (w *worker) failed(ctx context.Context) func(error, time.Duration) {
	return func(err error, pause time.Duration) {
		if !errors.Is(err, errEngine) {
			w.report.fetchFailed(ctx, w.unit.id, err, pause)
		}
	}
}

// take makes a run of an offer, unless another source has not been read yet.
func (w *worker) take(ctx context.Context, o offer) error {
	n := &news{content: o.content}
	if o.batch != nil {
		n.commit, n.project = o.batch.commit, o.batch.project
	}
	before := w.news[o.source]
	w.news[o.source] = n
	w.rounds, w.again = 0, nil
	if slices.Contains(w.news, nil) {
		return nil
	}
	err := w.assemble(ctx, o)
	if err != nil && len(w.fetched) > 0 && isUserError(err) {
		// What an older commit needed may be gone; the engine says what it needs now.
		w.fetched = nil
		err = w.assemble(ctx, offer{source: -1})
	}
	if err != nil && len(w.unit.sources) > 1 && before != nil {
		w.news[o.source] = before // it comes again
	}
	return err
}

// supply fetches what the engine misses.
func (w *worker) supply(ctx context.Context, n *engine.Need) {
	if n.GetCommitId() != w.news[0].commit || !w.unit.sources[0].repository.needs {
		return // there is a newer one
	}
	w.rounds++
	all := append(slices.Clone(w.fetched), n.GetDirectories()...)
	slices.Sort(all)
	all = slices.Compact(all)
	var err error
	switch i := slices.IndexFunc(n.GetDirectories(), func(dir string) bool { return checkDir(dir) != nil }); {
	case i >= 0:
		err = fmt.Errorf("a kustomization refers to %.200q, which is not inside the repository", n.GetDirectories()[i])
	case len(all) > maxNeeds:
		err = fmt.Errorf("kustomizations refer to more than %d directories", maxNeeds)
	case w.rounds > maxRounds:
		err = fmt.Errorf("kustomizations refer to each other through more than %d directories", maxRounds)
	}
	if err != nil {
		w.report.fetchFailed(ctx, w.unit.id, err, 0)
		return
	}
	w.fetched = all
	w.repeat(ctx)
}

// repeat begins again with what is known, and comes back later if that cannot be read.
func (w *worker) repeat(ctx context.Context) {
	w.again = nil
	err := w.assemble(ctx, offer{source: -1})
	if err == nil || errors.Is(err, errEngine) || ctx.Err() != nil {
		return
	}
	pause := w.retry.Next()
	w.report.fetchFailed(ctx, w.unit.id, err, pause)
	w.again = time.After(pause)
}

// assemble announces a run, passes on the files of all sources at their newest commits, and starts the run once all are there. What
// o offers is read from it, all else is fetched.
func (w *worker) assemble(ctx context.Context, o offer) error {
	begin := &engine.Begin{Worker: w.unit.id, Fetched: w.fetched}
	first := w.news[0]
	switch spec := w.unit.spec.(type) {
	case *agentcfg.ManifestProjectCF:
		begin.Unit = &engine.Begin_ManifestProject{ManifestProject: &engine.ManifestProject{
			Spec: spec, ProjectId: first.project, CommitId: first.commit,
		}}
	case *agentcfg.ChartCF:
		begin.Unit = &engine.Begin_Chart{Chart: &engine.Chart{Spec: spec, ProjectId: first.project, CommitId: first.commit}}
	}
	if err := w.tell(&engine.ToEngine{Message: &engine.ToEngine_Begin{Begin: begin}}); err != nil {
		return err
	}
	for i, s := range w.unit.sources {
		var open *batch
		if i == o.source {
			open = o.batch
		}
		if err := w.pass(ctx, s, w.news[i], open); err != nil {
			return err
		}
	}
	w.log.Info("Synchronizing objects", zap.String("commit_id", first.commit))
	w.begun.Store(begin)
	return w.tell(&engine.ToEngine{Message: &engine.ToEngine_Run{Run: &engine.Run{Worker: w.unit.id}}})
}

// pass passes on the files of one source.
func (w *worker) pass(ctx context.Context, s source, n *news, open *batch) error {
	put := func(path string, data []byte) error {
		return w.tell(&engine.ToEngine{Message: &engine.ToEngine_File{File: &engine.File{
			Worker: w.unit.id, Source: s.number, Path: path, Data: data,
		}}})
	}
	r := s.repository
	if r == nil {
		return put(valuesFile, n.content)
	}
	dirs := r.dirs
	if r.needs {
		dirs = outermost(append(slices.Clone(r.dirs), w.fetched...))
	}
	main := func(path string, data []byte) error {
		if below(path, dirs) {
			return nil // it comes with the directory
		}
		return put(path, data)
	}
	var err error
	if open != nil {
		err = about(r, open.relay(main))
	} else {
		err = w.fetch.fetch(ctx, r, r.paths, n.commit, main)
	}
	if err != nil || len(dirs) == 0 {
		return err
	}
	return w.fetch.fetch(ctx, r, globsBelow(dirs), n.commit, put)
}

func (w *worker) tell(m *engine.ToEngine) error {
	if err := w.send(m); err != nil {
		return errEngine
	}
	return nil
}

// stop ends the worker and waits.
func (w *worker) stop() {
	w.cancel()
	<-w.stopped
}

// need passes on what the engine needs; only the newest counts.
func (w *worker) need(n *engine.Need) {
	select {
	case <-w.needs:
	default:
	}
	w.needs <- proto.CloneOf(n)
}
