package fleet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func version(ctx context.Context, f *Fleet) error {
	client, err := f.HTTPClient(Job, "demo")
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.ProxyURL+"/version", http.NoBody)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s, %v", response.StatusCode, body, err)
	}
	return nil
}

// TestFleet_EveryReplicaReachesTheAgentOfOne also shows that the fleet's own instruments see what they are for.
func TestFleet_EveryReplicaReachesTheAgentOfOne(t *testing.T) {
	f := StartT(t, Config{ControlPlane: cluster, Agents: []line.Agent{
		{ID: 7, Name: "demo", Project: "acme/infra"},
		{Name: "demo-1", PodOf: "demo", Manual: true},
	}})
	for _, k := range f.Kas {
		f.Proxy.Only(k.Name)
		for range 3 {
			if err := version(soon(t), f); err != nil {
				t.Errorf("through %s: %v", k.Name, err)
			}
		}
	}
	f.Proxy.Only()
	hopped := 0
	for _, k := range f.Kas {
		hopped += k.PeerLink.Accepted()
	}
	if hopped == 0 {
		t.Error("nothing went from one kas to the other")
	}
	before, err := f.Take(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", before)
	if got := before.Locations[7]; len(got) != 1 {
		t.Errorf("the agent is said to be at %v, want one place", got)
	}

	// A second process at the other kas.
	holder := f.Kas[0]
	if before.Locations[7][0] == holder.URL {
		holder = f.Kas[1]
	}
	f.Agents.Only(holder.Name)
	if err := f.StartAgent(soon(t), "demo-1"); err != nil {
		t.Fatal(err)
	}
	line.Eventually(soon(t), t, "both kas are announced", func(ctx context.Context) error {
		urls, err := f.Locations(ctx, 7)
		if err == nil && len(urls) != 2 {
			err = fmt.Errorf("%v", urls)
		}
		return err
	})
	more, err := f.Take(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := more.more(before); err == nil || !strings.Contains(err.Error(), "agent 7") {
		t.Errorf("the census does not see one more location: %v", err)
	}
	if _, err := f.StopAgent(soon(t), "demo-1"); err != nil {
		t.Fatal(err)
	}
	f.Pods["demo-1"].Link.Reset()
}

func TestCensus_More(t *testing.T) {
	before := Census{Daemons: map[string]Count{"a": {Goroutines: 50, Streams: 2, Sockets: 5, ToAPI: 1}}, Keys: []string{"k"}}
	for _, tt := range []struct {
		now  Count
		keys []string
		want string // "": nothing
	}{
		{Count{Goroutines: 50, Streams: 2, Sockets: 5, ToAPI: 1}, nil, ""},
		{Count{Goroutines: 50 + moreGoroutines, Streams: 2, Sockets: 5 + moreSockets, ToAPI: 1 + moreSockets}, []string{"k"}, ""},
		{Count{Goroutines: 50 + moreGoroutines + 10*perStream, Streams: 12}, nil, ""},
		{Count{Goroutines: 51 + moreGoroutines, Streams: 2}, nil, "goroutines"},
		{Count{Sockets: 6 + moreSockets}, nil, "sockets"},
		{Count{ToAPI: 2 + moreSockets}, nil, "connections to its API server"},
		{Count{}, []string{"k", "new"}, "key new"},
	} {
		err := Census{Daemons: map[string]Count{"a": tt.now}, Keys: tt.keys}.more(before)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v %v: %v, want %q", tt.now, tt.keys, err, tt.want)
		}
	}
	if err := (Census{}).more(before); err == nil {
		t.Error("a daemon is gone, and nobody says so")
	}
}

func TestFleet_BalancerFollowsReadiness(t *testing.T) {
	f := StartT(t, Config{ControlPlane: cluster})
	if err := f.Kas[0].Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitReady(soon(t), f.Kas[0], false); err != nil {
		t.Fatal(err)
	}
	if err := f.Kas[0].Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitReady(soon(t), f.Kas[0], true); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Kas[0].Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := f.WaitReady(soon(t), f.Kas[0], false); err != nil {
		t.Fatal(err)
	}
	f.Proxy.Only(f.Kas[0].Name)
	if err := version(soon(t), f); err == nil {
		t.Error("a request had an answer, and no kas was ready")
	}
	if err := f.Proxy.Set(badlink.Conditions{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if err := version(soon(t), f); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a balancer that refuses: %v", err)
	}
}

func TestStart_BadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no cluster":   {},
		"yaml":         {ControlPlane: cluster, KasYAML: "{"},
		"kas says no":  {ControlPlane: cluster, KasYAML: "standalone: {nonsense: true}"},
		"strange host": {ControlPlane: cluster, Host: "192.0.2.1"},
	} {
		if f, err := Start(soon(t), cfg); err == nil {
			f.Stop()
			t.Errorf("%s: no error", name)
		}
	}
}
