package telemetry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// Probes are named conditions of a daemon that must all hold. The zero value has none, so it holds.
type Probes struct {
	mu     sync.RWMutex
	probes []probe
	notes  []func() string
}

type probe struct {
	name  string
	check func(context.Context) error
}

// Add adds a condition. check must be quick, safe for concurrent use, and its error text must hold no secret: whoever can
// reach the observability listener reads it.
func (p *Probes) Add(name string, check func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probes = append(p.probes, probe{name: name, check: check})
}

// Toggle adds a condition that its owner switches. It does not hold until Set(true).
func (p *Probes) Toggle(name string) *Toggle {
	t := &Toggle{}
	p.Add(name, func(context.Context) error {
		if !t.on.Load() {
			return errNotReady
		}
		return nil
	})
	return t
}

var errNotReady = errors.New("not ready")

// Note adds something that is said when all conditions hold, "" for nothing. It must be quick, safe for concurrent use, and hold no
// secret.
func (p *Probes) Note(note func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, note)
}

// said are the notes that say something, a line each.
func (p *Probes) said() string {
	p.mu.RLock()
	notes := p.notes
	p.mu.RUnlock()
	var lines strings.Builder
	for _, note := range notes {
		if text := note(); text != "" {
			lines.WriteString(text + "\n")
		}
	}
	return lines.String()
}

// Check returns nil if all conditions hold, or the name and error of the first that does not.
func (p *Probes) Check(ctx context.Context) error {
	p.mu.RLock()
	probes := p.probes
	p.mu.RUnlock()
	for _, one := range probes {
		if err := one.check(ctx); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

// Toggle is a condition that its owner switches.
type Toggle struct{ on atomic.Bool }

// Set says whether the condition holds.
func (t *Toggle) Set(on bool) { t.on.Store(on) }
