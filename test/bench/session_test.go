package main

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startTarget serves a handler as an API server does.
func startTarget(t *testing.T, h http.Handler) target {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.crt")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	t.Cleanup(client.CloseIdleConnections)
	return target{client: client, base: server.URL, header: http.Header{"Authorization": {"Bearer x"}}, authority: file}
}

func TestSessions_FakeTakesEveryByte(t *testing.T) {
	fake := startTarget(t, fakeHandler())
	ctx, cancel := context.WithTimeout(t.Context(), movedLimit)
	defer cancel()
	for name, move := range map[string]func(context.Context, time.Duration) (float64, error){
		"exec": repeat(fake, target.exec), "port-forward": repeat(fake, target.forward), "echo": fake.echo,
	} {
		if _, err := move(ctx, 10*time.Millisecond); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSessions_RefusedUpgrade(t *testing.T) {
	refuses := startTarget(t, http.NotFoundHandler())
	for name, move := range map[string]func(context.Context, time.Duration) (float64, error){
		"exec": repeat(refuses, target.exec), "port-forward": repeat(refuses, target.forward), "echo": refuses.echo, "keystrokes": refuses.keystrokes,
	} {
		if _, err := move(t.Context(), 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLoad_CountsWhatItReads(t *testing.T) {
	body := strings.Repeat("x", 300_000)
	page := startTarget(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			http.Error(w, "no", http.StatusInternalServerError)
		case "/chunks":
			_, _ = w.Write([]byte(body[:100_000])) // the client reads to the end
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write([]byte(body[100_000:]))
		default:
			_, _ = w.Write([]byte(body[:10]))
		}
	}))
	for path, size := range map[string]int64{"/chunks": 300_000, "/small": 10} {
		r, err := page.load(t.Context(), path, 3, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if r.requests < 3 || r.bytes != int64(r.requests)*size || r.p50 <= 0 || r.p99 < r.p50 {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if _, err := page.load(t.Context(), "/bad", 1, 0); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a failure is answered with %v", err)
	}
}

func TestSustain_CountsFailures(t *testing.T) {
	fails := startTarget(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer bad" {
			http.Error(w, "no", http.StatusBadGateway)
		}
	}))
	if good, bad, err := fails.sustain(t.Context(), 2, 50*time.Millisecond); err != nil || good == 0 || bad != 0 {
		t.Errorf("good load: %d, %d, %v", good, bad, err)
	}
	fails.header = http.Header{"Authorization": {"Bearer bad"}}
	if _, _, err := fails.sustain(t.Context(), 2, 50*time.Millisecond); err == nil {
		t.Error("a load without an answer is no error")
	}
}
