package main

import (
	"context"
	"fmt"
)

// calmly measures something and then waits until the daemons it used have as few goroutines as before. One that leaks has failed.
func calmly(ctx context.Context, daemons []watched, progress func(string), measure func() ([]row, error)) ([]row, error) {
	before := make([]footprint, len(daemons))
	for i, d := range daemons {
		var err error
		if before[i], err = d.look(ctx); err != nil {
			return nil, err
		}
	}
	rows, err := measure()
	if err != nil {
		return rows, err
	}
	for i, d := range daemons {
		during, err := d.look(ctx)
		if err != nil {
			return rows, err
		}
		if err := d.calm(ctx, before[i]); err != nil {
			return rows, err
		}
		progress(fmt.Sprintf("goroutines of %s: %g before, %g at the end", d.name, before[i].goroutines, during.goroutines))
	}
	return rows, nil
}
