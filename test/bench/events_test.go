package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// startEvents starts an API server with events, and returns it with a client.
func startEvents(t *testing.T) (*eventAPI, *http.Client) {
	t.Helper()
	authority, err := line.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.Issue("api", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := startEventAPI(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(authority.Pool)
	t.Cleanup(func() {
		client.CloseIdleConnections()
		a.close()
	})
	return a, client
}

func get(t *testing.T, ctx context.Context, client *http.Client, url string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Impersonate-User", "somebody")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// An event goes to its watch and to no other, with the time at which it happened; a watch whose client is gone is forgotten.
func TestEventAPI_Watch(t *testing.T) {
	a, client := startEvents(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := a.url + podsPath + "?watch=true&resourceVersion="
	seventh, eighth := get(t, ctx, client, url+"7"), get(t, ctx, client, url+"8")
	if err := a.watches(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := a.happen(8); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReader(eighth.Body).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	at, err := happened(text)
	if err != nil || at.Before(before) || time.Now().Before(at) || len(text) != eventSize {
		t.Errorf("%d bytes of event, happened at %s, %v", len(text), at, err)
	}
	if err := a.happen(9); err == nil {
		t.Error("an event for a watch that is not there")
	}
	cancel()
	if err := a.watches(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if rest, _ := io.ReadAll(seventh.Body); len(rest) > 0 {
		t.Errorf("the other watch got %q", rest)
	}
}

func TestEventAPI_SizeOfAnAnswer(t *testing.T) {
	a, client := startEvents(t)
	for query, want := range map[string]int{"": 512, "?limit=0": 0, "?limit=1": 1, "?limit=1000000": 1000000, "?limit=x": 512} {
		body, err := io.ReadAll(get(t, t.Context(), client, a.url+podsPath+query).Body)
		if err != nil || len(body) != want {
			t.Errorf("%q: %d bytes, %v; want %d", query, len(body), err, want)
		}
	}
}

func TestEventAPI_NobodyAsks(t *testing.T) {
	a, client := startEvents(t)
	response, err := client.Get(a.url + podsPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("%s, %v", response.Status, err)
	}
}

func TestHappened_NoEvent(t *testing.T) {
	for _, text := range []string{"", "x", eventHead, eventHead + "12", eventHead + `x"`, strings.TrimPrefix(string(event(time.Now())), "{")} {
		if _, err := happened(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestPercentile(t *testing.T) {
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(200-i)*time.Millisecond)
	}
	for share, want := range map[float64]float64{0: 1, 0.5: 101, 0.99: 199, 1: 200} {
		if got := percentile(all, share); got != want {
			t.Errorf("%g: %g ms, want %g", share, got, want)
		}
	}
}

func TestFootprint_PerAndFlat(t *testing.T) {
	without := footprint{rss: 100, heap: 10, stack: 5, goroutines: 7}
	with := footprint{rss: 300, heap: 30, stack: 15, goroutines: 17}
	if got, want := with.per(10, without), (footprint{rss: 20, heap: 2, stack: 1, goroutines: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !flat([]footprint{{rss: 1000}, {rss: 1009}, {rss: 1001}}) || flat([]footprint{{rss: 1000}, {rss: 1020}}) {
		t.Error("flat")
	}
	if got := middle([]footprint{{rss: 3}, {rss: 1}, {rss: 2}}).rss; got != 2 {
		t.Errorf("the middle is %g", got)
	}
}
