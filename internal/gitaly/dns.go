package gitaly

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

const (
	// dnsScheme is a name of our own, so that it is never mistaken for gRPC's resolver.
	dnsScheme = "gitaly-dns"

	resolvePeriod  = 5 * time.Minute
	resolveTimeout = 15 * time.Second
	// After failures: 1 s, growing by half to a minute, and up to 200 ms more so that many do not ask together.
	resolveBackoff       = time.Second
	resolveBackoffFactor = 1.5
	resolveBackoffMax    = time.Minute
	resolveJitter        = 200 * time.Millisecond
)

// dnsBuilder makes the resolver of one connection. It looks hosts up again from time to time, which gRPC's own does not, so that
// servers that are added later get their share.
type dnsBuilder struct {
	host, port string
	lookup     func(ctx context.Context, host string) ([]netip.Addr, error)
}

func newDNSBuilder(e endpoint) *dnsBuilder {
	names := net.DefaultResolver
	if e.server != "" {
		names = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, e.server)
		}}
	}
	return &dnsBuilder{host: e.host, port: e.port, lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return names.LookupNetIP(ctx, "ip", host)
	}}
}

// Scheme implements resolver.Builder.
func (b *dnsBuilder) Scheme() string { return dnsScheme }

// Build implements resolver.Builder. An IP address is published once and never looked up.
func (b *dnsBuilder) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &dnsResolver{dnsBuilder: b, cc: cc, cancel: cancel, now: make(chan struct{}, 1)}
	if ip, err := netip.ParseAddr(b.host); err == nil {
		_ = r.publish([]netip.Addr{ip})
		return r, nil
	}
	r.done.Go(func() { r.watch(ctx) })
	return r, nil
}

type dnsResolver struct {
	*dnsBuilder
	cc     resolver.ClientConn
	cancel context.CancelFunc
	// now asks for a look-up at once.
	now  chan struct{}
	done sync.WaitGroup
}

// ResolveNow implements resolver.Resolver: gRPC lost a server.
func (r *dnsResolver) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// Close implements resolver.Resolver.
func (r *dnsResolver) Close() {
	r.cancel()
	r.done.Wait()
}

func (r *dnsResolver) watch(ctx context.Context) {
	failures := 0
	for {
		select { // who asked until now gets this look-up
		case <-r.now:
		default:
		}
		pause, now := resolvePeriod, r.now
		if err := r.resolve(ctx); err != nil {
			// Being asked does not shorten the pause after a failure, or a dead name server would be asked all the time.
			pause, now = failurePause(failures), nil
			failures++
		} else {
			failures = 0
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-now:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func failurePause(failures int) time.Duration {
	pause := float64(resolveBackoff) * math.Pow(resolveBackoffFactor, float64(failures))
	return time.Duration(min(pause, float64(resolveBackoffMax))) + rand.N(resolveJitter)
}

// resolve looks the host up once and publishes what it found. A host that does not exist (any more) has no addresses, which is not
// an error of the look-up; gRPC may still refuse that and so ask for a pause.
func (r *dnsResolver) resolve(ctx context.Context) error {
	lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := r.lookup(lookup, r.host)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var problem *net.DNSError
	if errors.As(err, &problem) && problem.IsNotFound && !problem.IsTimeout && !problem.IsTemporary {
		return r.publish(nil)
	}
	if err != nil {
		r.cc.ReportError(err)
		return err
	}
	return r.publish(ips)
}

func (r *dnsResolver) publish(ips []netip.Addr) error {
	state := resolver.State{}
	for _, ip := range ips {
		server := resolver.Address{Addr: net.JoinHostPort(ip.Unmap().String(), r.port)}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{server}})
		state.Addresses = append(state.Addresses, server)
	}
	return r.cc.UpdateState(state)
}
