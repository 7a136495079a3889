package doctor

import (
	"fmt"
	"io"
	"strings"
)

// width is where lines of explanations are broken.
const width = 110

// marks are the first column.
var marks = map[Status]string{OK: "ok", Warn: "WARN", Fail: "FAIL", Skipped: "-"}

func (r *Report) writeTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s doctor %s, looking from: %s", r.Program, r.Version, r.Mode)
	if r.Target != "" {
		fmt.Fprintf(&b, ", at: %s", r.Target)
	}
	b.WriteString("\n\n")
	longest := 0
	for i := range r.Checks {
		longest = max(longest, len(r.Checks[i].Name))
	}
	for i := range r.Checks {
		c := &r.Checks[i]
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", marks[c.Status], longest, c.Name, oneLine(c.What))
		if c.Cause != "" {
			explain(&b, "cause", c.Cause)
			explain(&b, "fix", c.Fix)
			fmt.Fprintf(&b, "      see    %s\n", c.Reference)
		}
	}
	s := r.Summary
	fmt.Fprintf(&b, "\n%d ok, %d warnings, %d failed, %d skipped", s.OK, s.Warn, s.Fail, s.Skipped)
	if r.ExitCode != 0 {
		fmt.Fprintf(&b, "; exit code %d (%s)", r.ExitCode, r.Class)
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// explain writes a text below its check, broken into lines between words.
func explain(b *strings.Builder, label, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		length := 0
		for _, word := range strings.Fields(line) {
			switch {
			case length == 0:
				fmt.Fprintf(b, "      %-5s  %s", label, word)
				length = len(word)
			case length+1+len(word) > width:
				fmt.Fprintf(b, "\n             %s", word)
				length = len(word)
			default:
				b.WriteString(" " + word)
				length += 1 + len(word)
			}
		}
		b.WriteString("\n")
		label = ""
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
