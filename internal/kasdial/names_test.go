package kasdial

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/resolver"
)

// takesAddresses is what gRPC is to a resolver.
type takesAddresses struct {
	resolver.ClientConn
	got chan []string
}

func (c *takesAddresses) UpdateState(s resolver.State) error {
	var addresses []string
	for _, a := range s.Addresses {
		addresses = append(addresses, a.Addr)
	}
	c.got <- addresses
	return nil
}

func TestNames(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint string
		found    []string
		err      error
		want     []string
	}{
		"all addresses of the name":       {"kas.test:443", []string{"10.0.0.1", "fd00::1"}, nil, []string{"10.0.0.1:443", "[fd00::1]:443"}},
		"a failure leaves it to dialling": {"kas.test:443", nil, errors.New("no such host"), []string{"kas.test:443"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &takesAddresses{got: make(chan []string, 1)}
			n := &names{lookup: func(_ context.Context, host string) ([]string, error) {
				if host != "kas.test" {
					t.Errorf("looked up %q", host)
				}
				return c.found, c.err
			}}
			target := resolver.Target{}
			target.URL.Opaque = c.endpoint
			r, err := n.Build(target, conn, resolver.BuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			r.ResolveNow(resolver.ResolveNowOptions{})
			select {
			case got := <-conn.got:
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("addresses (-want +got):\n%s", diff)
				}
			case <-time.After(testWait):
				t.Fatal("no addresses")
			}
		})
	}
}

func TestNames_CloseEndsLookup(t *testing.T) {
	started := make(chan struct{})
	n := &names{lookup: func(ctx context.Context, _ string) ([]string, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	target := resolver.Target{}
	target.URL.Opaque = "kas.test:443"
	r, err := n.Build(target, &takesAddresses{got: make(chan []string)}, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	r.Close()
}

func TestNames_BadTarget(t *testing.T) {
	target := resolver.Target{}
	target.URL.Opaque = "kas.test"
	if _, err := (&names{}).Build(target, &takesAddresses{}, resolver.BuildOptions{}); err == nil {
		t.Error("a target without a port was accepted")
	}
}
