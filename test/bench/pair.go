package main

import (
	"context"
	"fmt"
	"slices"
)

// row is one figure of the run.
type row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Direct and Line are the medians of the two sides; Direct is zero where there is nothing to compare with.
	Direct float64 `json:"direct"`
	Line   float64 `json:"line"`
	// Ratio is the median of line/direct pair by pair, with its extremes.
	Ratio float64 `json:"ratio"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	// Goal is what the figure should be, for example "<= 1.4"; empty: it is only watched.
	Goal  string `json:"goal"`
	OK    bool   `json:"ok"`
	Quick bool   `json:"quick,omitempty"`
}

// pair measures one figure on both sides of the comparison, alternating, so that a drift of the machine hits both alike.
type pair struct {
	name, unit   string
	agent        string // whose way it is
	direct, line func(ctx context.Context) (float64, error)
	// goal bounds the ratio; atLeast turns it around. Zero: no goal.
	goal    float64
	atLeast bool
}

// run takes n pairs, after one pair that does not count.
func (p pair) run(ctx context.Context, n int, progress func(string)) (row, error) {
	var direct, line, ratios []float64
	for i := range n + 1 {
		d, err := p.direct(ctx)
		if err != nil {
			return row{}, fmt.Errorf("%s, direct: %w", p.name, err)
		}
		l, err := p.line(ctx)
		if err != nil {
			return row{}, fmt.Errorf("%s, through the line: %w", p.name, err)
		}
		if i == 0 {
			progress(fmt.Sprintf("%s: warm-up", p.name))
			continue
		}
		progress(fmt.Sprintf("%s: pair %d of %d: direct %.4g, line %.4g %s", p.name, i, n, d, l, p.unit))
		direct, line, ratios = append(direct, d), append(line, l), append(ratios, l/d)
	}
	r := row{
		Name: p.name, Unit: p.unit, Direct: median(direct), Line: median(line),
		Ratio: median(ratios), Min: slices.Min(ratios), Max: slices.Max(ratios), OK: true,
	}
	if p.goal != 0 {
		r.Goal, r.OK = fmt.Sprintf("<= %g", p.goal), r.Ratio <= p.goal
		if p.atLeast {
			r.Goal, r.OK = fmt.Sprintf(">= %g", p.goal), r.Ratio >= p.goal
		}
	}
	return r, nil
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
