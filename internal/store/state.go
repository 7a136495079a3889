package store

import "context"

// State says how a shared store does.
type State struct {
	// Answered says that it has answered at least once since this process started.
	Answered bool
	// Trouble says what is wrong with it now, in words for an operator and without secrets. Empty means that all is well.
	Trouble string
}

// Shared is a store outside of this process, which can be out of reach, full, or empty all of a sudden. Its calls fail then; they do
// not hang.
type Shared interface {
	Store
	// Run keeps the store alive until ctx ends.
	Run(ctx context.Context) error
	// State says how it does.
	State() State
	// Healed has a value when what this process has written must be written anew: the store has come back or lost its data.
	// One goroutine receives.
	Healed() <-chan struct{}
	// PublishElsewhere is Publish for the other replicas alone: those of this process have been told.
	PublishElsewhere(ctx context.Context, projectPath string) error
}
