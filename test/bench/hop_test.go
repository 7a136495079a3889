package main

import (
	"strings"
	"testing"
	"time"
)

// TestReplicaRows holds the figures of several kas to five times their goals: machines that run tests are busy.
func TestReplicaRows(t *testing.T) {
	rows, err := replicaRows(t.Context(), effort{each: 2 * time.Second, quick: true}, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	goals := []float64{goalHopUs, goalColdMs, goalOneAbsent, goalManyAbsent}
	if len(rows) != len(goals) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, r := range rows {
		if r.Line > 5*goals[i] || !strings.HasPrefix(r.Goal, "<= ") {
			t.Errorf("%s: %.4g %s, goal %s", r.Name, r.Line, r.Unit, r.Goal)
		}
	}
}
