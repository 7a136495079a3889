package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// row is one figure of the run.
type row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Direct and Line are the medians of the two sides; Direct is zero where there is nothing to compare with.
	Direct float64 `json:"direct"`
	Line   float64 `json:"line"`
	// Ratio is the median of line/direct pair by pair, zero where there is nothing to compare with.
	Ratio float64 `json:"ratio"`
	// Min and Max are the extremes of what the goal judges: of the ratio, of line - direct, or of the line alone.
	Min float64 `json:"min"`
	Max float64 `json:"max"`
	// Goal is what the figure should be, for example "ratio <= 1.4"; empty: it is only watched.
	Goal  string `json:"goal"`
	OK    bool   `json:"ok"`
	Quick bool   `json:"quick,omitempty"`

	// err is why there is no figure.
	err error
}

// judged says which number of a row a goal is about.
type judged int

const (
	ratio judged = iota // of line and direct
	added               // line minus direct
	plain               // the line alone
)

// goal bounds a figure. The zero value is none, about the ratio.
type goal struct {
	of      judged
	limit   float64
	atLeast bool
	set     bool
}

func most(of judged, limit float64) goal { return goal{of: of, limit: limit, set: true} }
func least(of judged, limit float64) goal {
	return goal{of: of, limit: limit, atLeast: true, set: true}
}

// noGoal is no goal, for a figure of the line alone.
func noGoal() goal { return goal{of: plain} }

func (g goal) text(unit string) string {
	if !g.set {
		return ""
	}
	sign := "<="
	if g.atLeast {
		sign = ">="
	}
	switch g.of {
	case ratio:
		return fmt.Sprintf("ratio %s %g", sign, g.limit)
	case added:
		return fmt.Sprintf("line - direct %s %g %s", sign, g.limit, unit)
	default:
		return fmt.Sprintf("%s %g %s", sign, g.limit, unit)
	}
}

func (g goal) met(value float64) bool {
	switch {
	case !g.set:
		return true
	case g.atLeast:
		return value >= g.limit
	default:
		return value <= g.limit
	}
}

// figure makes a row of samples, which come in pairs; direct may be empty.
func figure(name, unit string, direct, line []float64, g goal) row {
	r := row{Name: name, Unit: unit, Direct: median(direct), Line: median(line), Goal: g.text(unit)}
	values := line
	if len(direct) > 0 {
		ratios, differences := make([]float64, len(line)), make([]float64, len(line))
		for i := range line {
			if direct[i] != 0 { // JSON has no infinity
				ratios[i] = line[i] / direct[i]
			}
			differences[i] = line[i] - direct[i]
		}
		r.Ratio = median(ratios)
		switch g.of {
		case ratio:
			values = ratios
		case added:
			values = differences
		case plain:
		}
	}
	if len(values) > 0 {
		r.Min, r.Max = slices.Min(values), slices.Max(values)
		r.OK = g.met(median(values))
	}
	return r
}

// alternate takes samples of both sides in turn, A B A B, so that a drift of the machine hits both alike: n pairs of d each, after a
// short one that does not count.
func alternate[T any](ctx context.Context, e effort, direct, line func(context.Context, time.Duration) (T, error)) (ds, ls []T, err error) {
	samples, err := takeTurns(ctx, e, []side[T]{{name: "direct", take: direct}, {name: "through the line", take: line}})
	if err != nil {
		return nil, nil, err
	}
	return samples[0], samples[1], nil
}

// side is one of several that are compared.
type side[T any] struct {
	name string
	take func(context.Context, time.Duration) (T, error)
	// short: half as long, for what is only there to compare with.
	short bool
}

// takeTurns is alternate for any number of sides, whose samples it returns in their order.
func takeTurns[T any](ctx context.Context, e effort, sides []side[T]) ([][]T, error) {
	samples := make([][]T, len(sides))
	for i := range e.pairs + 1 {
		for j, side := range sides {
			each := e.each
			if i == 0 {
				each /= 4
			}
			if side.short {
				each /= 2
			}
			sample, err := side.take(ctx, each)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", side.name, err)
			}
			if i > 0 {
				samples[j] = append(samples[j], sample)
			}
		}
	}
	return samples, nil
}

// pick makes one figure of every sample.
func pick[T any](samples []T, of func(T) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return values
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
