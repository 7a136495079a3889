// Package aside runs work on a stack that is not kept. The stack of a goroutine grows with the deepest call it has ever made and hardly ever
// shrinks, so that a stream that waits for hours would go on holding what its first millisecond needed: with thousands of parked streams
// that is most of their memory.
package aside

import (
	"fmt"
	"runtime/debug"
)

// Do runs work on a goroutine of its own and waits for it. A panic of work is one of the caller.
func Do(work func() error) error {
	done := make(chan outcome, 1)
	go run(work, done)
	o := <-done
	if o.panicked != "" {
		panic(o.panicked)
	}
	return o.err
}

// outcome is how work ended.
type outcome struct {
	err      error
	panicked string // the panic and its stack
}

func run(work func() error, done chan<- outcome) {
	// This holds, too, when work ends its goroutine.
	o := outcome{panicked: "the work ended its goroutine"}
	defer func() {
		if p := recover(); p != nil {
			o.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
		done <- o
	}()
	o = outcome{err: work()}
}
