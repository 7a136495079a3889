package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/backoff"
)

const (
	// silenceLimit is how long Redis may say nothing until it is asked whether the connection still lives.
	silenceLimit = 10 * time.Second
	channels     = 2
)

var listenPolicy = backoff.Policy{
	Initial:    100 * time.Millisecond,
	Max:        2 * time.Second,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 20 * time.Second,
}

// listen keeps one subscription for the whole process until ctx ends.
func (s *Store) listen(ctx context.Context) {
	retry := backoff.New(listenPolicy)
	for ctx.Err() == nil {
		err := s.health.refuse()
		if err == nil {
			err = s.listenOnce(ctx)
		}
		s.metrics.subscribed.Set(0)
		s.watch.setDeaf(true)
		if ctx.Err() != nil {
			return
		}
		delay := retry.Next()
		s.log.Debug("Subscription to Redis ended", zap.Error(err), zap.Duration("retry_in", delay))
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// listenOnce subscribes and hands on what comes, until the connection ends.
func (s *Store) listenOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.watch.onRestart(func() { cancel(errors.New("redis has changed")) })
	bounded, end := context.WithTimeout(ctx, s.timeout)
	sub := s.client.Subscribe(bounded, s.tunnelChannel(), s.eventChannel())
	end()
	// Reading does not look at ctx: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	subscribed, wait, asked := 0, s.timeout, true
	for {
		message, err := sub.ReceiveTimeout(ctx, wait)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && !asked:
			if err := sub.Ping(ctx); err != nil {
				return fmt.Errorf("redis: ping subscription: %w", err)
			}
			wait, asked = s.timeout, true
			continue
		case err != nil:
			return fmt.Errorf("redis: subscription: %w", err)
		}
		switch m := message.(type) {
		case *redis.Subscription:
			if subscribed++; subscribed == channels {
				s.hearing()
			}
		case *redis.Message:
			s.heard(m)
		}
		if subscribed >= channels {
			wait, asked = silenceLimit, false
		}
	}
}

// hearing is called when the subscription is complete: whatever happened before may have been missed.
func (s *Store) hearing() {
	s.watch.setDeaf(false)
	s.watch.changedAll()
	s.events.gap()
	s.metrics.subscribed.Set(1)
}

func (s *Store) heard(m *redis.Message) {
	switch m.Channel {
	case s.tunnelChannel():
		if id, err := strconv.ParseInt(m.Payload, 10, 64); err == nil {
			s.watch.changed(id)
		}
	case s.eventChannel():
		origin, path, ok := parseEvent(m.Payload)
		if ok && origin != s.events.origin {
			s.events.deliver(path)
		}
	}
}

// lookAnew is called when Redis has come back or lost its data: what was read before is worth nothing, and messages may have been lost
// although the connection survived.
func (s *Store) lookAnew() {
	s.watch.changedAll()
	s.watch.restart()
}
