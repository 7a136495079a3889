package render

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrStuck says that a library did not end in time. It cannot be stopped and still computes, with whatever memory it takes: the process
// has to end.
var ErrStuck = errors.New("rendering did not end in time")

// longest is how long one run of a library may take, whatever the context says. The biggest real charts take a few seconds.
const longest = 2 * time.Minute

// guard runs a library until it ends or ctx does. What f writes may be read only when guard returns no ErrStuck. A panic is the
// repository's doing, as far as anybody can tell, and an error.
func guard(ctx context.Context, file string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if reason := recover(); reason != nil {
				done <- mistake(file, 0, "makes the library that renders it fail: %v", reason)
			}
		}()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("render %s: %w: %w", file, ErrStuck, context.Cause(ctx))
	}
}
