//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// perSecond is how many unary requests come per second, and watches how many watches are open all the time, while somebody is rolled.
	perSecond = 200
	watches   = 50
	// rollers is how many requests may be under way at once. Who comes when all are waits, and is late.
	rollers = 64
)

// versions of HTTP that clients speak, in turn.
var versions = [...]int{1, 2}

// traffic is what goes on while a fleet is rolled: unary requests over connections that are kept, and watches, half of them with HTTP/1.1
// and half with HTTP/2.
type traffic struct {
	fleet *fleet.Fleet
	// clients, by the version of HTTP that they speak.
	clients map[int]*http.Client
	header  http.Header
	work    sync.WaitGroup
	stop    chan struct{}
	began   time.Time

	// mu guards all below.
	mu      sync.Mutex
	asked   map[int]int // by version
	failed  []error
	slowest time.Duration
	ended   map[string]int // how watches ended
	opened  int
}

// begin starts the traffic. What end finds wrong fails t.
func begin(t *testing.T, f *fleet.Fleet) *traffic {
	t.Helper()
	tr := &traffic{
		fleet: f, clients: map[int]*http.Client{}, stop: make(chan struct{}), began: time.Now(), asked: map[int]int{}, ended: map[string]int{},
	}
	for _, version := range versions {
		tr.clients[version], tr.header = keeper(t, f, demo, version, rollers+watches)
	}
	due := make(chan time.Time, 10*perSecond)
	tr.work.Go(func() { tr.pace(due) })
	for i := range rollers {
		version := versions[i%len(versions)]
		tr.work.Go(func() {
			for at := range due {
				err := tr.once(version)
				tr.mu.Lock()
				tr.asked[version]++
				tr.slowest = max(tr.slowest, time.Since(at))
				if err != nil {
					tr.failed = append(tr.failed, err)
				}
				tr.mu.Unlock()
			}
		})
	}
	for i := range watches {
		tr.work.Go(func() { tr.watch(versions[i%len(versions)]) })
	}
	return tr
}

// pace says when each request is due. It catches up with what it is late, as the world does not wait for a busy machine either.
func (tr *traffic) pace(due chan<- time.Time) {
	defer close(due)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for at := tr.began; ; at = at.Add(time.Second / perSecond) {
		timer.Reset(time.Until(at))
		select {
		case <-timer.C:
		case <-tr.stop:
			return
		}
		select {
		case due <- at:
		case <-tr.stop:
			return
		}
	}
}

// request gets the header of an answer, in the version that was asked for.
func (tr *traffic) request(ctx context.Context, version int, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, tr.fleet.ProxyURL+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header = tr.header.Clone()
	response, err := tr.clients[version].Do(request)
	if err != nil {
		return nil, fmt.Errorf("HTTP/%d: %w", version, err)
	}
	if response.ProtoMajor != version {
		response.Body.Close()
		return nil, fmt.Errorf("the answer came with %s instead of HTTP/%d", response.Proto, version)
	}
	return response, nil
}

// once is one unary request.
func (tr *traffic) once(version int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	at := time.Now().Format("15:04:05.000")
	response, err := tr.request(ctx, version, word)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), "hello") {
		return fmt.Errorf("%s: HTTP/%d: HTTP status %d, %q, %w", at, version, response.StatusCode, body, err)
	}
	return nil
}

// watch keeps one watch open and opens it again when it ends, as every Kubernetes client does.
func (tr *traffic) watch(version int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var closer sync.WaitGroup
	defer closer.Wait()
	defer cancel()
	closer.Go(func() {
		select {
		case <-tr.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	for ctx.Err() == nil {
		how := tr.watchOnce(ctx, version)
		tr.mu.Lock()
		tr.opened++
		if ctx.Err() == nil {
			tr.ended[how]++
		}
		tr.mu.Unlock()
	}
}

// watchOnce says how a watch ended.
func (tr *traffic) watchOnce(ctx context.Context, version int) string {
	response, err := tr.request(ctx, version, watch)
	if err != nil {
		return "not opened: " + err.Error()
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return fmt.Sprintf("not opened: HTTP status %d: %s", response.StatusCode, body)
	}
	switch _, err := io.Copy(io.Discard, response.Body); {
	case err == nil:
		return "clean"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	default:
		return err.Error()
	}
}

// end stops the traffic: no unary request may have failed, and every watch has to have gone on or have ended so that its client knows.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	close(tr.stop)
	lasted := time.Since(tr.began)
	tr.work.Wait()
	asked := tr.total()
	for _, client := range tr.clients {
		client.CloseIdleConnections()
	}
	if want := perSecond * lasted.Seconds() * 0.9; float64(asked) < want {
		t.Errorf("only %d requests in %s, want %.0f: this machine is too busy to say anything", asked, lasted.Round(time.Second), want)
	}
	for _, version := range versions {
		if tr.asked[version] < asked/10 {
			t.Errorf("%d of %d requests with HTTP/%d", tr.asked[version], asked, version)
		}
	}
	t.Logf("%v requests by version, the slowest took %s; %d watches opened, ended: %v", tr.asked, tr.slowest.Round(time.Millisecond), tr.opened, tr.ended)
	if len(tr.failed) > 0 {
		t.Errorf("%d of %d unary requests failed", len(tr.failed), asked)
		for _, err := range tr.failed[:min(len(tr.failed), 10)] {
			t.Log(err)
		}
		for _, how := range tr.fleet.Proxy.Breaks() {
			t.Log(how)
		}
	}
	for how, n := range tr.ended {
		if how != "clean" {
			t.Errorf("%d watches: %s", n, how)
		}
	}
}

// total is how many requests there were. mu is held, or the traffic has ended.
func (tr *traffic) total() int {
	total := 0
	for _, n := range tr.asked {
		total += n
	}
	return total
}

// calm lets the traffic go on for a while: it is what is tested.
func calm() { time.Sleep(3 * time.Second) }

func TestRollingRestart_OfThreeKas_NoUnaryRequestFails(t *testing.T) {
	cfg := config()
	cfg.Replicas = 3
	f := start(t, cfg)
	before := census(t, f)
	tr := begin(t, f)
	calm()
	for _, k := range f.Kas {
		exit, err := k.Stop(soon(t))
		if err != nil || exit.Code != 0 {
			t.Errorf("%s: exit code %d, %v", k.Name, exit.Code, err)
		}
		t.Logf("%s was gone after %s", k.Name, exit.After.Round(time.Millisecond))
		if err := k.Start(soon(t)); err != nil {
			t.Fatal(err)
		}
		if err := f.WaitReady(soon(t), k, true); err != nil {
			t.Fatal(err)
		}
		calm()
	}
	tr.end(t)
	works(t, f)
	f.Settle(t, before)
}

func TestRollingRestart_OfTwoAgents_NoUnaryRequestFails(t *testing.T) {
	cfg := config()
	cfg.Agents[1].Manual = false
	f := start(t, cfg)
	before := census(t, f)
	tr := begin(t, f)
	calm()
	for _, name := range []string{demo, demo + "-1"} {
		exit, err := f.StopAgent(soon(t), name)
		if err != nil || exit.Code != 0 {
			t.Errorf("%s: exit code %d, %v", name, exit.Code, err)
		}
		t.Logf("%s was gone after %s", name, exit.After.Round(time.Millisecond))
		if err := f.StartAgent(soon(t), name); err != nil {
			t.Fatal(err)
		}
		calm()
	}
	tr.end(t)
	works(t, f)
	f.Settle(t, before)
}

// Everybody is killed once, one after the other, under the same traffic: requests may fail then, but none is answered wrongly, and all
// is well seconds later.
func TestKillEverybodyOnce_UnderTraffic_AllRecover(t *testing.T) {
	cfg := config()
	cfg.Replicas = 3
	cfg.Agents[1].Manual = false
	f := start(t, cfg)
	before := census(t, f)
	tr := begin(t, f)
	calm()
	for _, k := range f.Kas {
		if _, err := k.Kill(soon(t)); err != nil {
			t.Fatal(err)
		}
		calm()
		if err := errors.Join(k.Start(soon(t)), f.WaitReady(soon(t), k, true)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{demo, demo + "-1"} {
		if _, err := f.KillAgent(soon(t), name); err != nil {
			t.Fatal(err)
		}
		calm()
		if err := f.StartAgent(soon(t), name); err != nil {
			t.Fatal(err)
		}
	}
	f.Redis.Kill()
	calm()
	if err := f.Redis.Restart(soon(t)); err != nil {
		t.Fatal(err)
	}
	calm()
	tr.mu.Lock()
	failures := len(tr.failed)
	t.Logf("%d of %d requests failed; watches: %v", failures, tr.total(), tr.ended)
	tr.failed, tr.ended = nil, map[string]int{}
	tr.mu.Unlock()
	calm()
	tr.end(t) // in these last seconds nothing is wrong any more
	works(t, f)
	f.Settle(t, before)
}
