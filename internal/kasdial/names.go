package kasdial

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

const (
	// lookupLimit bounds one look at the name service.
	lookupLimit = 5 * time.Second
	// lookAgain is the time between two looks: soon enough after a failure, rare enough while kas cannot be reached at its addresses.
	lookAgain = maxDelay
)

// names resolves dns targets. It replaces gRPC's own resolver, which waits up to two minutes after a failure, and whose failures
// nobody is told of. Here a name that was never resolved is dialled as it is, so that the failure is that of an attempt to connect, with
// its delays, its log line and its metric.
type names struct {
	lookup func(ctx context.Context, host string) ([]string, error)
}

// Scheme is that of the targets.
func (*names) Scheme() string { return "dns" }

// Build starts to resolve one target, host:port.
func (n *names) Build(target resolver.Target, conn resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	host, port, err := net.SplitHostPort(target.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("resolve kas: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &nameLooker{host: host, port: port, conn: conn, lookup: n.lookup, asked: make(chan struct{}, 1), stop: stop}
	r.worker.Go(func() { r.run(ctx) })
	return r, nil
}

// nameLooker looks one name up: at first, and again when connections to what it found are lost.
type nameLooker struct {
	host, port string
	conn       resolver.ClientConn
	lookup     func(ctx context.Context, host string) ([]string, error)
	asked      chan struct{}
	stop       context.CancelFunc
	worker     sync.WaitGroup
}

// ResolveNow is gRPC's hint that addresses do not work.
func (r *nameLooker) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

// Close ends the looking up.
func (r *nameLooker) Close() {
	r.stop()
	r.worker.Wait()
}

func (r *nameLooker) run(ctx context.Context) {
	known := false
	for {
		hosts, err := r.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			known = true
			r.use(hosts)
			select {
			case <-r.asked:
			case <-ctx.Done():
				return
			}
		case !known:
			r.use([]string{r.host})
		}
		timer := time.NewTimer(lookAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (r *nameLooker) look(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	return r.lookup(ctx, r.host)
}

// use hands addresses to gRPC. Its answer says whether it likes them, which a further look would not change.
func (r *nameLooker) use(hosts []string) {
	addresses := make([]resolver.Address, len(hosts))
	for i, host := range hosts {
		addresses[i].Addr = net.JoinHostPort(host, r.port)
	}
	_ = r.conn.UpdateState(resolver.State{Addresses: addresses})
}
