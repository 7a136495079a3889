package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
)

// heldPolicy: whoever ends the engine interrupts everybody, so the pauses grow longer than those of other failures.
var heldPolicy = backoff.Policy{Initial: time.Minute, Max: time.Hour, Factor: 2, ResetAfter: 3 * time.Hour}

const (
	// maxAlone and maxAmongOthers are how often in a row a unit may be the only one, or one of several, at work when the engine ends: it
	// may be killed for reasons of its own.
	maxAlone       = 1
	maxAmongOthers = 2
	// maxReason bounds what is told of the engine's end, in bytes.
	maxReason = 500
)

// quarantine knows which units have ended the engine, and holds them back for a while: one repository that makes the engine crash, or
// take too much memory, each time it is rendered must not keep interrupting all others. It outlives engines.
type quarantine struct {
	policy backoff.Policy

	mu    sync.Mutex // guards all below
	units map[string]*offender
}

// offender is a unit that was at work when an engine ended.
type offender struct {
	unit unit
	// suspected is how often that was since its last pass that came to an end.
	suspected int
	convicted bool // it has been held back before
	retry     *backoff.Backoff
	held      *hold // nil: it may run
}

// hold says for how long a unit is held back.
type hold struct {
	// begin is the run that ended the engine.
	begin *engine.Begin
	// soonest is when a newer commit ends the hold, and until when it ends anyway.
	soonest, until time.Time
	reason         string
}

func newQuarantine(p backoff.Policy) *quarantine {
	return &quarantine{policy: p, units: map[string]*offender{}}
}

// suspect is a unit that was at work when an engine ended, and its newest run.
type suspect struct {
	unit      unit
	begin     *engine.Begin
	rendering bool
}

// ended holds back who keeps ending the engine, and returns their names. Rendering is what repositories can break, and is done for one
// unit at a time: who is rendered is the only suspect. Of several that work in the cluster all are.
func (q *quarantine) ended(suspects []suspect, err error) []string {
	if rendering := slices.DeleteFunc(slices.Clone(suspects), func(s suspect) bool { return !s.rendering }); len(rendering) > 0 {
		suspects = rendering
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var guilty []string
	for _, s := range suspects {
		o := q.units[s.unit.id]
		if o == nil || !o.unit.same(s.unit) {
			o = &offender{unit: s.unit, retry: backoff.New(q.policy)}
			q.units[s.unit.id] = o
		}
		o.suspected++
		allowed := maxAlone
		switch {
		case len(suspects) > 1:
			allowed = maxAmongOthers
		case o.convicted:
			allowed = 0
		}
		if s.begin == nil || o.suspected <= allowed {
			continue
		}
		o.suspected, o.convicted = 0, true
		now := time.Now()
		o.held = &hold{begin: s.begin, soonest: now.Add(q.policy.Initial), until: now.Add(o.retry.Next())}
		o.held.reason = fmt.Sprintf("held back until %s or a newer commit, for commit %s keeps ending the GitOps engine: %s",
			o.held.until.UTC().Format(time.RFC3339), commitOf(s.begin), shorten(err.Error()))
		guilty = append(guilty, s.unit.id)
	}
	return guilty
}

// finished notes that a pass of a unit came to its end.
func (q *quarantine) finished(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o := q.units[id]; o != nil {
		o.suspected = 0
	}
}

// of returns how long a unit is held back; nil: it may run. Another configuration begins anew.
func (q *quarantine) of(u unit) *hold {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.units[u.id]
	if o == nil {
		return nil
	}
	if !o.unit.same(u) {
		delete(q.units, u.id)
		return nil
	}
	return o.held
}

// release lets a unit run.
func (q *quarantine) release(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o := q.units[id]; o != nil {
		o.held = nil
	}
}

// retain forgets all other units.
func (q *quarantine) retain(units []unit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.units {
		if !slices.ContainsFunc(units, func(u unit) bool { return u.id == id }) {
			delete(q.units, id)
		}
	}
}

func commitOf(b *engine.Begin) string {
	if p := b.GetManifestProject(); p != nil {
		return p.GetCommitId()
	}
	return b.GetChart().GetCommitId()
}

// announcement makes the engine show that a unit is held back.
func (h *hold) announcement() *engine.Begin {
	b := proto.CloneOf(h.begin)
	b.Fetched, b.Held = nil, h.reason
	return b
}

// shorten keeps the beginning of the first line, which names the reason; a stack is in the log.
func shorten(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
