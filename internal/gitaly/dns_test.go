package gitaly

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"
)

// fakeConn records what a resolver publishes.
type fakeConn struct {
	resolver.ClientConn
	mu     sync.Mutex
	states [][]string
	errs   []error
}

func (f *fakeConn) UpdateState(s resolver.State) error {
	servers := []string{}
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			servers = append(servers, a.Addr)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states = append(f.states, servers)
	if len(servers) == 0 {
		return balancer.ErrBadResolverState
	}
	return nil
}

func (f *fakeConn) ReportError(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

// seen waits until the resolver waits, and returns what it has published.
func (f *fakeConn) seen() (states [][]string, errs []error) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.states), slices.Clone(f.errs)
}

// names is a name service that tests change.
type names struct {
	hang bool

	mu   sync.Mutex
	ips  []netip.Addr
	err  error
	when []time.Time
}

func (n *names) set(ips []netip.Addr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ips, n.err = ips, err
}

// asked waits until the resolver waits, and returns when it has asked.
func (n *names) asked() []time.Time {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.when)
}

func (n *names) lookup(ctx context.Context, _ string) ([]netip.Addr, error) {
	if n.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.when = append(n.when, time.Now())
	return n.ips, n.err
}

func build(t *testing.T, n *names, host string) (*fakeConn, resolver.Resolver) {
	t.Helper()
	cc := &fakeConn{}
	r, err := (&dnsBuilder{host: host, port: "8075", lookup: n.lookup}).Build(resolver.Target{}, cc, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return cc, r
}

func TestDNS_LooksUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, three := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("fd00::1")
		n := &names{ips: []netip.Addr{one, two, three}}
		cc, r := build(t, n, "gitaly")
		defer r.Close()
		states, _ := cc.seen()
		if len(states) != 1 || !slices.Equal(states[0], []string{"10.0.0.1:8075", "10.0.0.2:8075", "[fd00::1]:8075"}) {
			t.Fatalf("published %v", states)
		}
		n.set([]netip.Addr{one}, nil)
		time.Sleep(resolvePeriod - time.Second)
		if asked := n.asked(); len(asked) != 1 {
			t.Errorf("asked %d times before the period is over", len(asked))
		}
		time.Sleep(2 * time.Second)
		states, _ = cc.seen()
		if len(states) != 2 || !slices.Equal(states[1], []string{"10.0.0.1:8075"}) {
			t.Errorf("published %v", states)
		}
		r.ResolveNow(resolver.ResolveNowOptions{})
		if asked := n.asked(); len(asked) != 3 {
			t.Errorf("asked %d times, wanted a look-up at once", len(asked))
		}
	})
}

func TestDNS_BacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}
		cc, r := build(t, n, "gitaly")
		defer r.Close()
		time.Sleep(10 * time.Minute)
		asked := n.asked()
		if states, errs := cc.seen(); len(states) != 0 || len(errs) != len(asked) {
			t.Errorf("published %v, %d errors of %d look-ups", states, len(errs), len(asked))
		}
		want := time.Second
		for i := 1; i < len(asked); i++ {
			pause := asked[i].Sub(asked[i-1])
			if pause < want || pause > want+resolveJitter {
				t.Errorf("pause %d is %v, want %v", i, pause, want)
			}
			want = min(want*3/2, time.Minute)
		}
		r.ResolveNow(resolver.ResolveNowOptions{})
		if len(n.asked()) != len(asked) {
			t.Error("asked at once after a failure")
		}
		n.set([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil)
		time.Sleep(time.Minute + resolveJitter)
		first := len(n.asked()) // the next one fails
		n.set(nil, errors.New("again"))
		time.Sleep(resolvePeriod + 2*time.Second)
		asked = n.asked()
		states, _ := cc.seen()
		if len(states) != 1 || len(asked) < first+2 || asked[first+1].Sub(asked[first]) > time.Second+resolveJitter {
			t.Errorf("the pauses do not begin anew after a success: %v, %v", states, asked[first:])
		}
	})
}

func TestDNS_NoSuchHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{err: &net.DNSError{Err: "no such host", IsNotFound: true}}
		cc, r := build(t, n, "gitaly")
		defer r.Close()
		if states, errs := cc.seen(); len(states) != 1 || len(states[0]) != 0 || len(errs) != 0 {
			t.Errorf("published %v, errors %v", states, errs)
		}
		time.Sleep(2 * time.Second)
		if len(n.asked()) < 2 {
			t.Error("a host that comes late is not seen before the period is over")
		}
	})
}

func TestDNS_Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cc, r := build(t, &names{hang: true}, "gitaly")
		time.Sleep(resolveTimeout)
		if _, errs := cc.seen(); len(errs) != 1 || !errors.Is(errs[0], context.DeadlineExceeded) {
			t.Errorf("errors %v", errs)
		}
		time.Sleep(2 * time.Second) // in the middle of the next one
		r.Close()
		if _, errs := cc.seen(); len(errs) != 1 {
			t.Errorf("an error was reported after the end: %v", errs)
		}
	})
}

func TestDNS_Literal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{}
		cc, r := build(t, n, "fd00::1")
		r.ResolveNow(resolver.ResolveNowOptions{})
		time.Sleep(time.Hour)
		r.Close()
		states, _ := cc.seen()
		if len(n.asked()) != 0 || len(states) != 1 || !slices.Equal(states[0], []string{"[fd00::1]:8075"}) {
			t.Errorf("asked %v, published %v", n.asked(), states)
		}
	})
}
