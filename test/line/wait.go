package line

import (
	"context"
	"errors"
	"time"
)

// Wait polls until check returns nil. When ctx ends first, the error is the last one of check and that of ctx.
func Wait(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
