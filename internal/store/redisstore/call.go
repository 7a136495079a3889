package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// giveUpAfter is how many calls in a row may find Redis unreachable before calls are refused without asking it.
const giveUpAfter = 3

// slow is how long a call must have waited for its deadline to say something about Redis rather than about the caller.
const slow = 500 * time.Millisecond

// call runs one round trip with a deadline, unless Redis is known to be unreachable.
func (s *Store) call(ctx context.Context, operation string, f func(ctx context.Context) error) error {
	start := time.Now()
	if err := s.health.refuse(); err != nil {
		s.metrics.observe(operation, resultSkipped, start)
		return fmt.Errorf("redis: %s: %w", operation, err)
	}
	err := s.ask(ctx, operation, f)
	switch verdict(ctx, err, time.Since(start)) {
	case resultUnreachable:
		s.health.failed(err)
	case resultOK, resultRefused:
		s.health.answered(err)
	}
	return err
}

// ask is call without the judgement about Redis.
func (s *Store) ask(ctx context.Context, operation string, f func(ctx context.Context) error) error {
	start := time.Now()
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := f(bounded)
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	s.metrics.observe(operation, verdict(ctx, err, time.Since(start)), start)
	if err != nil {
		return fmt.Errorf("redis: %s: %w", operation, err)
	}
	return nil
}

// verdict is what the outcome of a call with that context says about Redis.
func verdict(ctx context.Context, err error, took time.Duration) string {
	var answer redis.Error
	switch {
	case err == nil:
		return resultOK
	case errors.Is(ctx.Err(), context.Canceled), ctx.Err() != nil && took < slow:
		return resultCanceled
	case errors.As(err, &answer) && !comesBack(answer.Error()):
		return resultRefused
	default:
		return resultUnreachable
	}
}

// takesNothing says whether Redis answered that it can be read but not be written to now.
func takesNothing(err error) bool {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return false
	}
	kind, _, _ := strings.Cut(answer.Error(), " ")
	return kind == "OOM" || kind == "MISCONF" || kind == "NOREPLICAS"
}

// comesBack says whether an answer means that this Redis cannot serve now, as if it were not there.
func comesBack(answer string) bool {
	kind, _, _ := strings.Cut(answer, " ")
	switch kind {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOAUTH", "WRONGPASS":
		return true
	}
	return strings.HasPrefix(answer, "ERR max number of clients reached")
}
