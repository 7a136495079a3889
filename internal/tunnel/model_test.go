package tunnel

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"pgregory.net/rapid"
)

// pendingFind is a Find of the model test: a waiter placed as Find places it, without its goroutine.
type pendingFind struct {
	w      *waiter
	cancel func()
}

// TestRegistry_Model drives the registry with random sequences of parking, finding, giving up, ending and retiring, against the
// simplest model there is: a number of idle streams and a queue of finders.
func TestRegistry_Model(t *testing.T) {
	raw, err := announce(map[string]map[string]Handler{testService: {echoMethod: nil}}, nil, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseDescriptor(raw); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := NewRegistry(RegistryConfig{Registerer: prometheus.NewRegistry()})
		m := &registryModel{registry: r, raw: raw}
		rt.Repeat(map[string]func(*rapid.T){
			"park":   m.park,
			"take":   m.take,
			"wait":   m.wait,
			"giveUp": m.giveUp,
			"end":    m.end,
			"again":  m.again,
			"lose":   m.lose,
			"retire": m.retireAll,
			"":       m.check,
		})
	})
}

type registryModel struct {
	registry *Registry
	raw      []byte
	idle     []*stream
	busy     []*stream
	waiting  []pendingFind
}

func (m *registryModel) park(rt *rapid.T) {
	t := newStream(agentID, liveStream{})
	t.peer = rapid.SampledFrom([]string{"pod a", "pod b", "pod c"}).Draw(rt, "pod")
	if err := m.registry.enter(t, m.raw); err != nil {
		rt.Fatal(err)
	}
	m.registry.park(t)
	m.parked(rt, t)
}

// again ends a call whose stream is parked again.
func (m *registryModel) again(rt *rapid.T) {
	if len(m.busy) == 0 {
		rt.Skip("no call")
	}
	i := rapid.IntRange(0, len(m.busy)-1).Draw(rt, "which")
	t := m.busy[i]
	m.busy = append(m.busy[:i], m.busy[i+1:]...)
	m.registry.repark(t)
	m.parked(rt, t)
}

// parked notes that a stream was made available.
func (m *registryModel) parked(rt *rapid.T, t *stream) {
	if len(m.waiting) == 0 {
		m.idle = append(m.idle, t)
		return
	}
	// The oldest finder must have it.
	select {
	case got := <-m.waiting[0].w.found:
		if got.stream != t {
			rt.Fatal("the oldest finder got another stream")
		}
	default:
		rt.Fatal("the oldest finder got nothing")
	}
	m.waiting = m.waiting[1:]
	m.busy = append(m.busy, t)
}

func (m *registryModel) take(rt *rapid.T) {
	got := m.registry.TryFind(agentID, wanted)
	if (got != nil) != (len(m.idle) > 0) {
		rt.Fatalf("found %v while %d are idle", got != nil, len(m.idle))
	}
	if got != nil {
		m.idle = remove(rt, m.idle, got.stream)
		m.busy = append(m.busy, got.stream)
	}
}

func (m *registryModel) wait(rt *rapid.T) {
	if len(m.idle) > 0 {
		rt.Skip("a find would not wait")
	}
	s := m.registry.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil {
		a = &agentStreams{}
		s.agents[agentID] = a
	}
	w := &waiter{wanted: []string{wanted}, found: make(chan *Tunnel, 1)}
	e := a.waiters.PushBack(w)
	m.waiting = append(m.waiting, pendingFind{w, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		a.waiters.Remove(e)
		s.forget(agentID, a)
	}})
}

func (m *registryModel) giveUp(rt *rapid.T) {
	if len(m.waiting) == 0 {
		rt.Skip("nobody waits")
	}
	i := rapid.IntRange(0, len(m.waiting)-1).Draw(rt, "who")
	m.waiting[i].cancel()
	m.waiting = append(m.waiting[:i], m.waiting[i+1:]...)
}

func (m *registryModel) end(rt *rapid.T) {
	if len(m.busy) == 0 {
		rt.Skip("no call")
	}
	i := rapid.IntRange(0, len(m.busy)-1).Draw(rt, "which")
	if m.registry.withdraw(m.busy[i]) {
		rt.Fatal("a stream in use was withdrawn")
	}
	m.registry.leave(m.busy[i])
	m.busy = append(m.busy[:i], m.busy[i+1:]...)
}

func (m *registryModel) lose(rt *rapid.T) {
	if len(m.idle) == 0 {
		rt.Skip("none is idle")
	}
	i := rapid.IntRange(0, len(m.idle)-1).Draw(rt, "which")
	if !m.registry.withdraw(m.idle[i]) {
		rt.Fatal("an idle stream could not be withdrawn")
	}
	m.registry.leave(m.idle[i])
	m.idle = append(m.idle[:i], m.idle[i+1:]...)
}

func (m *registryModel) retireAll(rt *rapid.T) {
	m.registry.retire(time.Now().Add(time.Hour))
	kept := map[string]int{}
	var left []*stream
	for _, t := range m.idle {
		select {
		case <-t.retired:
			m.registry.leave(t)
		default:
			kept[t.peer]++
			left = append(left, t)
		}
	}
	for pod, n := range kept {
		if n > minIdle {
			rt.Fatalf("%d streams of %s are left, want %d", n, pod, minIdle)
		}
	}
	m.idle = left
}

func (m *registryModel) check(rt *rapid.T) {
	p := m.registry.Presence(agentID)
	if p.Idle != len(m.idle) || p.Busy != len(m.busy) || p.Connected != (len(m.idle)+len(m.busy) > 0) {
		rt.Fatalf("presence %+v, the model has %d idle and %d busy", p, len(m.idle), len(m.busy))
	}
	s := m.registry.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(m.idle)+len(m.busy)+len(m.waiting) == 0 && len(s.agents) != 0 {
		rt.Fatal("the registry remembers an agent of which nothing is left")
	}
}

func remove(rt *rapid.T, from []*stream, t *stream) []*stream {
	for i := range from {
		if from[i] == t {
			return append(from[:i], from[i+1:]...)
		}
	}
	rt.Fatal("a stream was given out twice")
	return nil
}

// FuzzDescriptor: whatever an agent announces is refused or understood, never more.
func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(rawDescriptor))
	f.Add([]byte(rawHeader))
	f.Add([]byte("\x0a\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDescriptor(raw)
		if (d == nil) == (err == nil) {
			t.Fatal("neither refused nor understood")
		}
		if d != nil && len(d.methods) > maxServices*maxMethods {
			t.Fatal("more methods than allowed")
		}
	})
}

func TestAnnounce_IsUnderstood(t *testing.T) {
	raw, err := announce(map[string]map[string]Handler{testService: {echoMethod: nil}}, []string{"a.B/C"}, 42, 43)
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseDescriptor(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !d.has(wanted, "a.B/C") || d.has("a.B/D") || d.maxStreams != 42 || d.pod != 43 || len(d.methods) != 2 {
		t.Errorf("understood %+v", d)
	}
	if _, err := announce(nil, []string{"nonsense"}, 42, 0); err == nil {
		t.Error("an extension without a method was accepted")
	}
}

// liveStream is a stream that has not ended.
type liveStream struct{ grpc.ServerStream }

func (liveStream) Context() context.Context { return context.Background() }
