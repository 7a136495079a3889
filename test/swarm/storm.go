package swarm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// askLimit bounds one request to an agent; kas itself lets it wait for twenty seconds.
	askLimit = 25 * time.Second
	// askAgain is the mean pause after a request that failed.
	askAgain = 200 * time.Millisecond
)

// Served is how long after a moment the agents served a request, the quickest first.
type Served []time.Duration

// Share is how long it took until a share of the agents, such as 0.99, had.
func (s Served) Share(of float64) time.Duration {
	return s[min(int(of*float64(len(s))), len(s)-1)]
}

// ServeAll asks every agent of k for one request, all at the same time, each again until it is served. Times count from since.
func (k *Kas) ServeAll(ctx context.Context, agents int, since time.Time) (Served, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: agents, DisableCompression: true}
	defer transport.CloseIdleConnections()
	served := make(Served, agents)
	errs := make([]error, agents)
	var all sync.WaitGroup
	for i := range agents {
		all.Go(func() {
			errs[i] = k.serve(ctx, transport, i)
			served[i] = time.Since(since)
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("agent %d of the swarm serves nothing: %w", i, err)
		}
	}
	slices.Sort(served)
	return served, nil
}

// serve asks until there is an answer.
func (k *Kas) serve(ctx context.Context, transport http.RoundTripper, i int) error {
	for {
		err := k.ask(ctx, transport, i)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain/2 + rand.N(askAgain)):
		}
	}
}

func (k *Kas) ask(ctx context.Context, transport http.RoundTripper, i int) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.ProxyURL+"/version", http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+Bearer(i))
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// Storm starts a kas and a swarm, waits until all agents serve, kills kas and starts it again. It returns how long after the kill the
// agents served again.
func Storm(ctx context.Context, dir string, agents int, progress func(string)) (served Served, err error) {
	k, err := NewKas(ctx, dir, agents)
	if err != nil {
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	defer k.Kill()
	start := time.Now()
	s, err := Start(ctx, Config{Agents: agents, KasURL: k.URL, Token: Token})
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopErr := s.Stop(); err == nil {
			err = stopErr
		}
	}()
	first, err := k.ServeAll(ctx, agents, start)
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("%d agents: 99 %% served after %s, at the first start", agents, first.Share(0.99).Round(time.Millisecond)))
	killed := time.Now()
	k.Kill()
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	served, err = k.ServeAll(ctx, agents, killed)
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("%d agents: half served again after %s, 99 %% after %s, the last after %s; %d connections were made", agents,
		served.Share(0.5).Round(time.Millisecond), served.Share(0.99).Round(time.Millisecond), served.Share(1).Round(time.Millisecond), s.Connections()))
	return served, nil
}
