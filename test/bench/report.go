package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// outFile is where the figures of the newest run lie, relative to the repository's root.
const outFile = "test/bench/out/latest.json"

// verdict says how a figure stands to its goal.
func (r row) verdict() string {
	switch {
	case r.err != nil:
		return "FAILED: " + strings.ReplaceAll(r.err.Error(), "\n", " ")
	case !r.OK:
		return "MISSED"
	default:
		return ""
	}
}

func (r row) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: direct %.4g, line %.4g %s, ratio %.3f, %.4g to %.4g; %s %s",
		r.Name, r.Direct, r.Line, r.Unit, r.Ratio, r.Min, r.Max, r.Goal, r.verdict()))
}

// writeTable shows the rows to a person.
func writeTable(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "figure\tunit\tdirect\tline\tline/direct\tmin\tmax\tgoal\t")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%s\t%.4g\t%.4g\t%.3f\t%.4g\t%.4g\t%s\t%s\n", r.Name, r.Unit, r.Direct, r.Line, r.Ratio, r.Min, r.Max, r.Goal, r.verdict())
	}
	return tw.Flush()
}

// writeJSON leaves the rows for programs.
func writeJSON(rows []row) error {
	if err := os.MkdirAll(filepath.Dir(outFile), 0o755); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := encode(&out, rows); err != nil {
		return err
	}
	return os.WriteFile(outFile, out.Bytes(), 0o644)
}

// encode leaves the signs of goals readable.
func encode(w io.Writer, rows []row) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(rows)
}
