package narrator

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

const (
	// Interrupted is the exit code after Ctrl-C, as shells have it.
	Interrupted = 130
	// logTail is how much of each log is shown after a failure, in bytes.
	logTail = 3000
)

// Story is what a demonstration has to tell.
type Story interface {
	// Tell goes through all steps until one fails.
	Tell(ctx context.Context) error
	// Logs are those of the daemons by name, as far as any have been started.
	Logs() map[string]string
	// Exports says how to go on by hand in another terminal; empty while there is nothing to go on with.
	Exports() string
	// CleanUp ends everything and removes what was written.
	CleanUp()
}

// Main tells a story on the terminal and ends the process. With KEEP=1 everything stays up until Ctrl-C.
func Main(begin func(*Narrator) Story) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Run(ctx, os.Stdout, os.Getenv("KEEP") != "", begin)
	stop()
	os.Exit(code)
}

// Run tells a story and returns the exit code of the process. keep leaves everything up until ctx ends.
func Run(ctx context.Context, out io.Writer, keep bool, begin func(*Narrator) Story) int {
	n := New(out)
	s := begin(n)
	defer s.CleanUp()
	err := s.Tell(ctx)
	n.Summary(err)
	if err != nil && ctx.Err() == nil {
		n.ends(s.Logs())
	}
	if keep && ctx.Err() == nil {
		if exports := s.Exports(); exports != "" {
			n.Printf("\nEverything stays up until Ctrl-C. In another terminal, %s", exports)
			<-ctx.Done()
			n.Printf("\n")
			ctx = context.WithoutCancel(ctx) // Ctrl-C is how this is meant to end
		}
	}
	switch {
	case ctx.Err() != nil:
		return Interrupted
	case err != nil:
		return 1
	}
	return 0
}

// ends shows the ends of logs.
func (n *Narrator) ends(logs map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		log := logs[name]
		n.Printf("\nThe end of the log of %s:\n    %s\n", name, Indented(log[max(0, len(log)-logTail):]))
	}
}

// Reader keeps what it is told, and acts on reading some words, as a person who presses Ctrl-C then.
type Reader struct {
	bytes.Buffer
	At string
	Do func()
}

func (r *Reader) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(r.At)) {
		r.Do()
	}
	return r.Buffer.Write(p)
}
