package k8sproxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// echo answers with the body it got.
func echo(a *agenttest.Agent) error {
	_, body, err := a.Whole()
	if err != nil {
		return err
	}
	return a.Answer(200, string(body))
}

// Clients that send without a pause, also what must not be sent twice, lose nothing while a kas is replaced by another: GOAWAY says
// which requests were taken, and the client's library sends the others elsewhere.
func TestHTTP2_ReplacedUnderLoad_LosesNothing(t *testing.T) {
	t.Parallel()
	const (
		clients = 16
		// notices is how long the balancer may take to notice that a kas leaves, which below is until enough requests are through.
		notices = 10 * time.Second
	)
	start := func(grace time.Duration) *secureLine {
		return newSecureLine(t, echo, func(c *k8sproxy.Config) {
			c.ListenGracePeriod, c.ShutdownGracePeriod = grace, time.Minute
		})
	}
	var now atomic.Pointer[secureLine]
	var dialed atomic.Int64
	now.Store(start(notices))
	transport := now.Load().client.Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialed.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, network, now.Load().addr)
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	// All clients find this connection open. Had each opened one, some would still be at the handshake when the kas stops.
	if err := post(client, "https://127.0.0.1/k8s-proxy/echo", "first"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var working sync.WaitGroup
	var sent atomic.Int64
	for i := range clients {
		working.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := post(client, "https://127.0.0.1/k8s-proxy/echo", fmt.Sprintf("%d of client %d", n, i)); err != nil {
					t.Errorf("request %d of client %d: %v", n, i, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	enough := func() {
		before := sent.Load()
		want(t, now.Load().line, func() bool { return t.Failed() || sent.Load() > before+10*clients })
	}
	enough()
	before := dialed.Load()
	now.Load().stop()
	want(t, now.Load().line, func() bool { return t.Failed() || dialed.Load() > before })
	enough() // the balancer has not noticed yet: clients are served, and not sent away again and again
	if n := dialed.Load() - before; n > clients {
		t.Errorf("%d connections were opened before the balancer noticed", n)
	}
	now.Swap(start(0)).stopped(t)
	enough()
	close(stop)
	working.Wait()
	t.Logf("%d requests", sent.Load())
}

// post sends a body and wants it back.
func post(client *http.Client, url, body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", ciBearer)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != 200 || string(got) != body {
		return fmt.Errorf("%s %d, %q for %q, %w", resp.Proto, resp.StatusCode, got, body, err)
	}
	return nil
}
