package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// feedQueue is how many events may wait for one watch.
	feedQueue = 64
	// eventSize is that of one event, in bytes: a small object.
	eventSize = 1 << 10
	// apiStreams is how many requests a kube-apiserver takes at once on one HTTP/2 connection.
	apiStreams = 100
)

// podsPath is answered only to those who come as somebody, as the job does through the line.
const podsPath = "/api/v1/pods"

// eventAPI is an API server in this process that has events to deliver when it is told to. A watch is a GET with watch=true, told from
// others by its resourceVersion. A GET with limit=N is answered with N bytes, every other one with few.
type eventAPI struct {
	url    string
	server *http.Server
	served chan error
	block  []byte

	// mu guards feeds, by resourceVersion.
	mu    sync.Mutex
	feeds map[string]chan time.Time
}

// startEventAPI serves TLS with the certificate of two files until close.
func startEventAPI(certificateFile, keyFile string) (*eventAPI, error) {
	certificate, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &eventAPI{
		url: "https://" + listener.Addr().String(), served: make(chan error, 1), feeds: map[string]chan time.Time{},
		block: []byte(strings.Repeat("0123456789abcdef", 4<<10)),
	}
	a.server = &http.Server{
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: apiStreams}, Handler: a,
	}
	go func() { a.served <- a.server.ServeTLS(listener, "", "") }()
	return a, nil
}

func (a *eventAPI) close() {
	_ = a.server.Close()
	<-a.served
}

// ServeHTTP implements http.Handler.
func (a *eventAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == podsPath && r.Header.Get("Impersonate-User") == "" {
		http.Error(w, "nobody asks", http.StatusForbidden)
		return
	}
	query := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	if query.Get("watch") == "true" {
		a.watch(w, r, query.Get("resourceVersion"))
		return
	}
	size, err := strconv.Atoi(query.Get("limit"))
	if err != nil {
		size = 512
	}
	w.Header().Set("Content-Length", strconv.Itoa(size))
	for size > 0 {
		n, err := w.Write(a.block[:min(size, len(a.block))])
		if err != nil {
			return
		}
		size -= n
	}
}

// watch delivers the events of one watch until its client is gone.
func (a *eventAPI) watch(w http.ResponseWriter, r *http.Request, version string) {
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return
	}
	feed := make(chan time.Time, feedQueue)
	a.mu.Lock()
	a.feeds[version] = feed
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.feeds, version)
	}()
	for {
		select {
		case <-r.Context().Done():
			return
		case at := <-feed:
			if _, err := w.Write(event(at)); err != nil || flush() != nil {
				return
			}
		}
	}
}

// eventHead and eventTail are around the time of an event.
const (
	eventHead = `{"type":"MODIFIED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","resourceVersion":"`
	eventTail = `","annotations":{"x":"`
)

// event is a line that says when it happened.
func event(at time.Time) []byte {
	b := make([]byte, 0, eventSize)
	b = append(b, eventHead...)
	b = strconv.AppendInt(b, at.UnixNano(), 10)
	b = append(b, eventTail...)
	for len(b) < eventSize-5 {
		b = append(b, 'x')
	}
	return append(b, "\"}}}\n"...)
}

// happened is when the event of a line did.
func happened(text string) (time.Time, error) {
	rest, ok := strings.CutPrefix(text, eventHead)
	digits, _, found := strings.Cut(rest, `"`)
	if !ok || !found {
		return time.Time{}, fmt.Errorf("%q is no event", text)
	}
	nanoseconds, err := strconv.ParseInt(digits, 10, 64)
	return time.Unix(0, nanoseconds), err
}

// open is how many watches there are.
func (a *eventAPI) open() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.feeds)
}

// happen lets an event happen now, for one watch.
func (a *eventAPI) happen(version int) error {
	a.mu.Lock()
	feed := a.feeds[strconv.Itoa(version)]
	a.mu.Unlock()
	select {
	case feed <- time.Now():
		return nil
	default: // nil, or full
		return errors.New("a watch is not there, or takes nothing")
	}
}

// watches waits until there are so many.
func (a *eventAPI) watches(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for a.open() != n {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("the API server has %d watches, want %d: %w", a.open(), n, err)
		}
	}
	return nil
}
