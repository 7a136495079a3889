//go:build e2e

package middlebox

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// nginxStreams is how many streams nginx takes on a connection, by its default of http2_max_concurrent_streams.
	nginxStreams = 128
	// tunnels is what the agent uses of them: it leaves some for its own calls.
	tunnels = nginxStreams - 8
	// wanted is more than there are.
	wanted = 150
)

// More requests at once than nginx takes streams from an agent: those beyond wait for a while and are told to come again. The agent's own
// calls go on, and as soon as streams are free everything does.
func TestNginx_MoreRequestsThanStreams(t *testing.T) {
	t.Parallel()
	n := reserveNginx(t)
	l := behindNginx(t, n, "streams")
	const agent = "streams-grpc"
	client, err := l.HTTPClient(2, agent)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	t.Cleanup(func() { cancel(); clients.Wait() })
	statuses := make(chan int, wanted)
	for range wanted {
		clients.Go(func() { hold(ctx, t, client, n.jobURL()+"/api/v1/namespaces/streams/configmaps?watch=true", statuses) })
	}
	got, deadline := map[int]int{}, soon(t)
	for range wanted {
		select {
		case status := <-statuses:
			got[status]++
		case <-deadline.Done():
			t.Fatalf("not every request has an answer: %v", got)
		}
	}
	if got[http.StatusOK] != tunnels || got[http.StatusTooManyRequests] != wanted-tunnels {
		t.Errorf("answers %v, want %d with 200 and %d with 429", got, tunnels, wanted-tunnels)
	}
	// A new configuration reaches the agent, over the one stream it has for that, and it can still make calls.
	log := mark(l, agent)
	if _, err := l.PushConfig(soon(t), agent, line.CIAccess("{agent: {}}", "acme/jobs-of-"+agent)+"observability: {logging: {level: info}}\n"); err != nil {
		t.Fatal(err)
	}
	wantLine(t, "log of the agent", log, "Configuration applied")
	// Who waits is served as soon as somebody leaves.
	served := make(chan error, 1)
	go func() { served <- get(client, n.jobURL()+"/api/v1/namespaces/default") }()
	cancel()
	clients.Wait()
	if err := <-served; err != nil {
		t.Errorf("a request that waited for a stream: %v", err)
	}
	start := time.Now()
	for range 20 {
		if err := get(client, n.jobURL()+"/api/v1/namespaces/default"); err != nil {
			t.Error(err)
		}
	}
	t.Logf("20 requests after the load: %s", time.Since(start).Round(time.Millisecond))
	for _, level := range []string{`"level":"warn"`, `"level":"error"`} {
		if strings.Contains(l.AgentLog(agent), level) {
			t.Errorf("the log of the agent has a line of %s", level)
		}
	}
}

// hold opens a watch and tells its status; one that is answered with 200 stays open until ctx ends.
func hold(ctx context.Context, t *testing.T, client *http.Client, url string, statuses chan<- int) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Error(err)
		return
	}
	response, err := client.Do(request)
	if err != nil {
		t.Errorf("watch: %v", err)
		return
	}
	defer response.Body.Close()
	statuses <- response.StatusCode
	if response.StatusCode == http.StatusOK {
		_, _ = io.Copy(io.Discard, response.Body)
	}
}
