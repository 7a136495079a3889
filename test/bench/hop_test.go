package main

import (
	"strings"
	"testing"
	"time"
)

// TestReplicaRows holds what Redis is asked to five times the goals. How fast the hop is, a busy machine and the race detector decide.
func TestReplicaRows(t *testing.T) {
	rows, err := replicaRows(t.Context(), effort{each: 2 * time.Second, quick: true}, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 5 {
		t.Fatalf("%d rows", len(rows))
	}
	if r := rows[1]; r.Name != "floor_hop_added_p50_us" || r.Line == 0 || r.Goal != "" {
		t.Errorf("the floor: %+v", r)
	}
	for _, r := range []row{rows[0], rows[2]} {
		if r.Line == 0 || !strings.HasPrefix(r.Goal, "<= ") {
			t.Errorf("%s: %.4g %s, goal %s", r.Name, r.Line, r.Unit, r.Goal)
		}
	}
	for i, goal := range []float64{goalOneAbsent, goalManyAbsent} {
		if r := rows[3+i]; r.Line > 5*goal || !strings.HasPrefix(r.Goal, "<= ") {
			t.Errorf("%s: %.4g %s, goal %s", r.Name, r.Line, r.Unit, r.Goal)
		}
	}
}
