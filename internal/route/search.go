package route

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/peer"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	// nextAfter is how long the next replica waits for the answer of the one asked before.
	nextAfter = 10 * time.Millisecond
	// here names this kas among the replicas of a search.
	here = ""
)

// attemptRetry is how often a replica that fails is asked again.
var attemptRetry = backoff.Policy{Initial: 100 * time.Millisecond, Max: time.Second, Factor: 2, Jitter: 1, ResetAfter: 10 * time.Second}

// standing is how a replica of a search stands.
type standing struct {
	// busy: it holds streams of the agent, and none of them is free. err: why it cannot help.
	busy bool
	err  error
}

// search asks for one stream at this kas and at the others that hold some, all at once.
type search struct {
	r      *Router
	q      Request
	wanted []string
	watch  *watch
	// caller is the request's context, within ends with the search.
	caller, within context.Context
	attempts       sync.WaitGroup
	// won receives what was found, news what replicas say otherwise.
	won  chan candidate
	news chan news

	// Of the goroutine of run: how the replicas stand that were asked, those not asked yet, and whether the next one may be.
	asked   map[string]standing
	unasked []string
}

// news is a change of a replica's standing.
type news struct {
	url string
	standing
	// gone: nobody asks it any more.
	gone bool
}

// search finds a stream of the agent anywhere.
func (r *Router) search(ctx context.Context, q Request, wanted []string, started time.Time) (candidate, error) {
	w := r.watches.get(q.AgentID)
	defer r.watches.put(w)
	within, cancel := context.WithDeadline(ctx, started.Add(waitLimit))
	s := &search{
		r: r, q: q, wanted: wanted, watch: w, caller: ctx, within: within,
		won: make(chan candidate), news: make(chan news), asked: map[string]standing{},
	}
	found, err := s.run()
	cancel()
	s.attempts.Wait()
	return found, err
}

// run asks replicas until one has a stream, or none can help.
func (s *search) run() (candidate, error) {
	s.asked[here] = standing{}
	s.attempts.Go(s.waitHere)
	next := time.NewTimer(0)
	defer next.Stop()
	<-next.C
	for {
		urls, known, changed := s.watch.locations()
		s.list(urls)
		if err := s.verdict(known, urls); err != nil {
			return nil, err
		}
		if len(s.unasked) > 0 && !s.expectant() {
			s.ask()
		}
		if len(s.unasked) > 0 {
			next.Reset(nextAfter)
		}
		select {
		case found := <-s.won:
			return found, nil
		case n := <-s.news:
			if n.gone {
				delete(s.asked, n.url)
				continue
			}
			s.asked[n.url] = n.standing
		case <-next.C:
			if len(s.unasked) > 0 {
				s.ask()
			}
		case <-changed:
		case <-s.within.Done():
			if s.caller.Err() != nil {
				return nil, gaveUp(s.caller)
			}
			return nil, s.late()
		}
	}
}

// list takes over the locations: new ones are to be asked, in an order that spreads the load.
func (s *search) list(urls []string) {
	s.unasked = slices.DeleteFunc(s.unasked, func(u string) bool { return !slices.Contains(urls, u) })
	for _, u := range urls {
		if _, asked := s.asked[u]; !asked && !slices.Contains(s.unasked, u) {
			s.unasked = slices.Insert(s.unasked, rand.IntN(len(s.unasked)+1), u)
		}
	}
}

// expectant says that a replica was asked and has said nothing yet.
func (s *search) expectant() bool {
	for url, st := range s.asked {
		if url != here && !st.busy && st.err == nil {
			return true
		}
	}
	return false
}

func (s *search) ask() {
	url := s.unasked[0]
	s.unasked = s.unasked[1:]
	s.asked[url] = standing{}
	s.attempts.Go(func() { s.attempt(url) })
}

// verdict says that waiting makes no sense; nil: it does. known: the store has listed the other replicas.
func (s *search) verdict(known bool, urls []string) error {
	presence := s.r.cfg.Registry.Presence(s.q.AgentID)
	if !known {
		return nil
	}
	if !presence.Connected && len(urls) == 0 && len(s.asked) == 1 {
		seen := s.seen(presence.LastSeen)
		if s.r.longGone(seen) {
			return s.r.absent(seen, s.trouble()...)
		}
		return nil
	}
	if len(s.unasked) > 0 {
		return nil
	}
	var saturated, lacking error
	for url, st := range s.asked {
		if url == here && !presence.Connected {
			continue
		}
		switch fault.KindOf(st.err) {
		case fault.ResourceExhausted:
			saturated = st.err
		case fault.InvalidArgument:
			lacking = st.err
		default:
			if st.err == nil {
				return nil // it may have a stream at any moment
			}
		}
	}
	if saturated != nil {
		return saturated
	}
	if lacking != nil && !s.failing() {
		return lacking
	}
	return nil
}

// failing says that a replica could not be asked.
func (s *search) failing() bool {
	for _, st := range s.asked {
		if st.err != nil && fault.HopOf(st.err) == fault.OtherKas {
			return true
		}
	}
	return false
}

func (s *search) seen(own time.Time) time.Time {
	seen := s.r.watches.lastSeenOf(s.within, s.watch)
	if own.After(seen) {
		return own
	}
	return seen
}

func (s *search) trouble() []string {
	if s.r.cfg.Others.Trouble == nil {
		return nil
	}
	if err := s.r.cfg.Others.Trouble(); err != nil {
		return []string{fmt.Sprintf("Agents of other kas cannot be looked up: %v.", err)}
	}
	return nil
}

// late explains why there was no stream for so long.
func (s *search) late() error {
	presence := s.r.cfg.Registry.Presence(s.q.AgentID)
	if presence.Connected {
		return noneFree()
	}
	var failure error
	for _, st := range s.asked {
		if st.busy {
			return noneFree()
		}
		if st.err != nil && fault.HopOf(st.err) == fault.OtherKas {
			failure = st.err
		}
	}
	ctx, cancel := context.WithTimeout(s.caller, askSeen)
	defer cancel()
	s.within = ctx
	more := s.trouble()
	if failure != nil {
		// The replica that had the agent is gone, and the agent has not come back.
		s.r.timeouts.Inc()
		return fault.New(fault.DeadlineExceeded, fault.OtherKas, "%s It was connected to another kas: %v.", notFound, failure)
	}
	return s.r.absent(s.seen(presence.LastSeen), more...)
}

// waitHere waits for a stream at this kas.
func (s *search) waitHere() {
	retry := backoff.New(attemptRetry)
	for {
		if announced, connected := s.r.cfg.Registry.Announces(s.q.AgentID, s.wanted...); connected && !announced {
			s.tell(news{url: here, standing: standing{err: tunnel.Unsupported(s.wanted)}})
		}
		t, err := s.r.cfg.Registry.Find(s.within, s.q.AgentID, s.wanted...)
		if err == nil {
			select {
			case s.won <- ownStream{t}:
			case <-s.within.Done():
				s.r.cfg.Registry.Release(t)
			}
			return
		}
		if kind := fault.KindOf(err); s.within.Err() != nil || kind != fault.ResourceExhausted && kind != fault.InvalidArgument {
			return // kas stops: the other replicas may still have one
		}
		if !s.tell(news{url: here, standing: standing{err: err}}) || !s.pause(retry) {
			return
		}
	}
}

// attempt asks one replica until it has a stream, or is not listed any more.
func (s *search) attempt(url string) {
	retry := backoff.New(attemptRetry)
	for {
		found, err := s.askOnce(url)
		if found != nil {
			select {
			case s.won <- otherStream{found}:
				s.r.hops.WithLabelValues("served").Inc()
				s.watch.heat(url)
			case <-s.within.Done():
				found.Finish(false)
			}
			return
		}
		if s.within.Err() != nil {
			return
		}
		if !errors.Is(err, io.EOF) {
			s.r.hops.WithLabelValues(fault.KindOf(err).String()).Inc()
			if !s.tell(news{url: url, standing: standing{err: err}}) || !s.pause(retry) {
				return
			}
		}
		if urls, _, _ := s.watch.locations(); !slices.Contains(urls, url) {
			s.tell(news{url: url, gone: true})
			return
		}
	}
}

// askOnce asks a replica. io.EOF: it has waited long enough. The stream that is returned hangs on the request's context.
func (s *search) askOnce(url string) (*peer.Stream, error) {
	stream, err := s.r.cfg.Others.Peers.Ask(s.within, url, s.q.toPeer())
	if err != nil {
		return nil, err
	}
	for {
		ready, err := stream.Wait()
		if err != nil {
			stream.Finish(false)
			return nil, err
		}
		if ready && stream.Adopt(s.caller) {
			return stream, nil
		}
		if ready || !s.tell(news{url: url, standing: standing{busy: true}}) {
			stream.Finish(false)
			return nil, s.within.Err()
		}
	}
}

// tell passes news on; false: the search is over.
func (s *search) tell(n news) bool {
	select {
	case s.news <- n:
		return true
	case <-s.within.Done():
		return false
	}
}

func (s *search) pause(retry *backoff.Backoff) bool {
	timer := time.NewTimer(retry.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.within.Done():
		return false
	}
}
