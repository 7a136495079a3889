package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// outFile is where the figures of the newest run lie, relative to the repository's root.
const outFile = "test/bench/out/latest.json"

// writeTable shows the rows to a person.
func writeTable(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "figure\tunit\tdirect\tline\tline/direct\tmin\tmax\tgoal\t")
	for _, r := range rows {
		verdict := ""
		if !r.OK {
			verdict = "MISSED"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.4g\t%.4g\t%.3f\t%.3f\t%.3f\t%s\t%s\n", r.Name, r.Unit, r.Direct, r.Line, r.Ratio, r.Min, r.Max, r.Goal, verdict)
	}
	return tw.Flush()
}

// writeJSON leaves the rows for programs.
func writeJSON(rows []row) error {
	if err := os.MkdirAll(filepath.Dir(outFile), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(outFile, append(data, '\n'), 0o644)
}
