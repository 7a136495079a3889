//go:build e2e

package install

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// rate is how many requests a load sends per second, workers how many may be in flight.
	rate    = 60
	workers = 12
	// requestLimit is how long one request may take.
	requestLimit = time.Minute
)

// load sends unary requests to an agent at a constant rate, over keep-alive connections of HTTP/1.1. A request is lost when its status is
// not 2xx, or by a transport error that Go's own client does not repeat.
type load struct {
	client *http.Client
	url    string
	bearer string
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	served int
	lost   []string
}

// startLoad sends requests until finish, or the end of the test.
func startLoad(t *testing.T, m *machine, agent, path string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ld := &load{
		url: m.jobURL() + path, bearer: fmt.Sprintf("Bearer ci:%d:%s", agentIDs[agent], jobToken), stop: cancel,
		client: &http.Client{Timeout: requestLimit, Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: m.authority.Pool, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: workers,
		}},
	}
	due := make(chan struct{})
	ld.done.Go(func() {
		defer close(due)
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return
			case due <- struct{}{}:
			}
		}
	})
	for range workers {
		ld.done.Go(func() {
			for range due {
				ld.once()
			}
		})
	}
	t.Cleanup(ld.end)
	return ld
}

func (ld *load) once() {
	begin := time.Now()
	err := ld.get()
	ld.mu.Lock()
	defer ld.mu.Unlock()
	ld.served++
	if err != nil {
		ld.lost = append(ld.lost, fmt.Sprintf("%s after %s: %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), err))
	}
}

// get is one request, which is not cut off when the test has seen enough.
func (ld *load) get() error {
	request, err := http.NewRequest(http.MethodGet, ld.url, http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", ld.bearer)
	response, err := ld.client.Do(request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	err = errors.Join(err, response.Body.Close())
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("HTTP status %d: %.300s", response.StatusCode, body)
	}
	return err
}

func (ld *load) end() {
	ld.stop()
	ld.done.Wait()
	ld.client.CloseIdleConnections()
}

// finish ends the load and tells what was lost.
func (ld *load) finish(t *testing.T, what string) {
	t.Helper()
	ld.end()
	t.Logf("%s: %d requests, %d lost", what, ld.served, len(ld.lost))
	if ld.served < rate {
		t.Errorf("%s: only %d requests", what, ld.served)
	}
	if len(ld.lost) > 0 {
		t.Errorf("%s: %d of %d requests lost, among them\n%s", what, len(ld.lost), ld.served, strings.Join(ld.lost[:min(len(ld.lost), 10)], "\n"))
	}
}
