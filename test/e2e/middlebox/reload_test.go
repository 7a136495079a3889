//go:build e2e

package middlebox

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

	"gitlab.com/agentk/agentk/test/line"
)

// getters is how many requests each agent has in flight all the time.
const getters = 4

// reloadEvery is the time between two reloads of nginx, in which hundreds of requests are served.
const reloadEvery = 3 * time.Second

// load is a number of clients that send one GET after the other to an agent, over keep-alive connections of HTTP/1.1.
type load struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	served int
	lost   []string
	// cut: nginx may cut its own requests, which it answers with a page of its own.
	cut bool
}

// startLoad sends requests until the test or finish ends it.
func startLoad(t *testing.T, l *line.Line, n *nginx, job int64, agent string, cut bool) *load {
	t.Helper()
	client, err := l.HTTPClient(job, agent)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ld := &load{stop: cancel, cut: cut}
	t.Cleanup(func() { cancel(); ld.done.Wait() })
	for range getters {
		ld.done.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				err := get(client, n.jobURL()+"/api/v1/namespaces/default")
				ld.mu.Lock()
				ld.served++
				if err != nil && !(ld.cut && strings.Contains(err.Error(), "<center>nginx")) {
					ld.lost = append(ld.lost, fmt.Sprintf("%s after %s: %v", start.Format(time.TimeOnly), time.Since(start).Round(time.Millisecond), err))
				}
				ld.mu.Unlock()
			}
		})
	}
	return ld
}

// get is one request, which is not cut off when the test has seen enough.
func get(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	err = errors.Join(err, response.Body.Close())
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP status %d: %.300s", response.StatusCode, body)
	}
	return err
}

// finish ends the load and tells what was lost.
func (ld *load) finish(t *testing.T, what string) {
	t.Helper()
	ld.stop()
	ld.done.Wait()
	t.Logf("%s: %d requests", what, ld.served)
	if len(ld.lost) > 0 {
		t.Errorf("%s: %d of %d requests lost, among them\n%s", what, len(ld.lost), ld.served, strings.Join(ld.lost[:min(len(ld.lost), 10)], "\n"))
	}
}

// wantQuiet checks that no daemon has a line of a warning or an error.
func wantQuiet(t *testing.T, l *line.Line) {
	t.Helper()
	for name, log := range l.Logs() {
		for text := range strings.Lines(log) {
			if strings.Contains(text, `"level":"warn"`) || strings.Contains(text, `"level":"error"`) {
				t.Errorf("log of %s: %s", name, text)
			}
		}
	}
}

// behindNginx starts a line with an agent for each way through nginx: the first over WebSocket, the second over plain gRPC.
func behindNginx(t *testing.T, n *nginx, prefix string) *line.Line {
	t.Helper()
	agents, jobs := pairs(prefix+"-ws", prefix+"-grpc")
	agents[0].KasAddress, agents[1].KasAddress = n.agentURL(), n.nativeURL()
	for i := range agents {
		agents[i].Config += "observability: {logging: {level: debug}}\n"
	}
	l := line.StartT(t, line.Config{
		ControlPlane: cluster, Agents: agents, Jobs: jobs, PlainProxy: true,
		ExtraKasYAML: "standalone: {kubernetes_api_url: '" + n.jobURL() + "'}",
	})
	n.serve(t, l, "")
	for i, a := range agents {
		connect(t, l, a.Name)
		if i == 0 {
			kubectl(t, l, a.ID, "create", "namespace", prefix)
		}
	}
	return l
}

// Connections end in all ways that an administrator of nginx plans: nobody notices.
func TestNginx_PlannedEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		main, server string
		reloads      int
		moves        string // what the log of the agent over plain gRPC tells of it
	}{
		"reload":             {reloads: 4, moves: "Changing the connection to gRPC server"},
		"keepalive_requests": {server: "keepalive_requests 50;", moves: "Changing the connection to gRPC server"},
		"worker shutdown":    {main: "worker_shutdown_timeout 1s;", reloads: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := reserveNginx(t)
			n.workers, n.main, n.server = true, test.main, test.server
			prefix := "planned-" + strings.NewReplacer(" ", "-", "_", "-").Replace(name)
			l := behindNginx(t, n, prefix)
			watches := []*watch{startWatch(t, l, 1, prefix), startWatch(t, l, 2, prefix)}
			cut := test.main != ""
			loads := []*load{startLoad(t, l, n, 1, prefix+"-ws", cut), startLoad(t, l, n, 2, prefix+"-grpc", cut)}
			for range test.reloads {
				time.Sleep(reloadEvery)
				n.reload(t)
			}
			time.Sleep(reloadEvery)
			if test.moves != "" {
				wantLine(t, "log of the agent over plain gRPC", func() string { return l.AgentLog(prefix + "-grpc") }, test.moves)
			}
			loads[0].finish(t, "over WebSocket")
			loads[1].finish(t, "over plain gRPC")
			if !cut {
				apply(t, l, 1, prefix, "first", "one")
				for _, w := range watches {
					w.want(t, "configmap/first")
				}
			}
			wantQuiet(t, l)
		})
	}
}
