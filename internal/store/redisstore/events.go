package redisstore

import (
	"context"
	"strings"
	"sync"

	"gitlab.com/agentk/agentk/internal/store"
)

// events hands push events to the subscribers of this process.
type events struct {
	// origin is what this process signs its events with, to know them when Redis brings them back.
	origin  string
	metrics *metrics

	// mu guards the subscribers. Nothing under it waits: only holders of mu send.
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
}

type subscriber struct {
	ch chan string
	// forget takes the subscriber out of its context, which may live as long as the process while subscribers come and go.
	forget func() bool
}

func newEvents(origin string, m *metrics) *events {
	return &events{origin: origin, metrics: m, subscribers: map[*subscriber]struct{}{}}
}

func (e *events) channelOf(ctx context.Context) <-chan string {
	sub := &subscriber{ch: make(chan string, store.EventBuffer)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.subscribers[sub] = struct{}{}
	sub.forget = context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.end(sub)
	})
	return sub.ch
}

// end closes a channel unless that was done. mu is held.
func (e *events) end(sub *subscriber) {
	if _, ok := e.subscribers[sub]; ok {
		delete(e.subscribers, sub)
		sub.forget()
		close(sub.ch)
	}
}

// gap tells the subscribers that they may have missed something.
func (e *events) gap() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for sub := range e.subscribers {
		e.end(sub)
	}
}

func (e *events) deliver(projectPath string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for sub := range e.subscribers {
		if len(sub.ch) == cap(sub.ch) {
			select {
			case <-sub.ch:
				e.metrics.lost.Inc()
			default: // received meanwhile
			}
		}
		sub.ch <- projectPath
	}
}

// formatEvent and parseEvent are the message on the channel: who sent it and the path of the project, with a space between. A path has
// no space, so that later versions may add words.
func formatEvent(origin, projectPath string) string { return origin + " " + projectPath }

func parseEvent(message string) (origin, projectPath string, ok bool) {
	words := strings.Split(message, " ")
	if len(words) < 2 || words[1] == "" {
		return "", "", false
	}
	return words[0], words[1], true
}

// Publish implements store.Events. The subscribers of this process are told even when it fails.
func (s *Store) Publish(ctx context.Context, projectPath string) error {
	s.events.deliver(projectPath)
	return s.PublishElsewhere(ctx, projectPath)
}

// PublishElsewhere implements store.Shared.
func (s *Store) PublishElsewhere(ctx context.Context, projectPath string) error {
	return s.call(ctx, "publish", func(ctx context.Context) error {
		return s.client.Publish(ctx, s.eventChannel(), formatEvent(s.events.origin, projectPath)).Err()
	})
}

// Subscribe implements store.Events. It works without Redis: events of other replicas then come after it is back, or the channel is
// closed because they may not have come.
func (s *Store) Subscribe(ctx context.Context) (<-chan string, error) {
	return s.events.channelOf(ctx), nil
}

func (s *Store) eventChannel() string { return s.key("events") }
