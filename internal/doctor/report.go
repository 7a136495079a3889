package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// schema is the version of the JSON report. Keys may be added without a new one.
const schema = 1

// minSecret is the shortest text that is taken for a secret; shorter ones would blank out half of the report.
const minSecret = 4

// Head says who looked, from where and at what.
type Head struct {
	// Program is agentk or kas, Version its version.
	Program string `json:"program"`
	Version string `json:"version"`
	// Mode is pod, remote, job or kas.
	Mode string `json:"mode"`
	// Target is what was looked at: an address or a file.
	Target string `json:"target,omitempty"`
}

// Result is one check of a report.
type Result struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status Status `json:"status"`
	What   string `json:"what"`
	// CauseID, Class, Cause, Fix and Reference are there for warn and fail. Reference is a URL.
	CauseID   string  `json:"causeId,omitempty"`
	Class     Class   `json:"class,omitempty"`
	Cause     string  `json:"cause,omitempty"`
	Fix       string  `json:"fix,omitempty"`
	Reference string  `json:"reference,omitempty"`
	Seconds   float64 `json:"seconds"`
}

// Summary counts the results by status.
type Summary struct {
	OK      int `json:"ok"`
	Warn    int `json:"warn"`
	Fail    int `json:"fail"`
	Skipped int `json:"skipped"`
}

// Report is what all checks of a run found.
type Report struct {
	Schema int `json:"schema"`
	Head
	StartedAt time.Time `json:"startedAt"`
	Seconds   float64   `json:"seconds"`
	Checks    []Result  `json:"checks"`
	Summary   Summary   `json:"summary"`
	// Status is the worst of all; a check that was skipped is none.
	Status Status `json:"status"`
	// Class and ExitCode are those of the first check that failed: what comes after it is often a consequence.
	Class    Class `json:"class,omitempty"`
	ExitCode int   `json:"exitCode"`
}

func (r *Report) add(c *Check, o Outcome, took time.Duration) {
	result := Result{ID: c.ID, Name: c.Name, Status: o.Status, What: o.What, Seconds: seconds(took)}
	if o.Status == Warn || o.Status == Fail {
		cause := causeOf(o.Cause)
		result.CauseID, result.Class, result.Cause, result.Fix, result.Reference = cause.ID, cause.Class, cause.Text, cause.Fix, cause.Reference()
		if o.Fix != "" {
			result.Fix = o.Fix
		}
	}
	r.Checks = append(r.Checks, result)
}

// finish draws the conclusions.
func (r *Report) finish(took time.Duration) {
	r.Seconds, r.Status = seconds(took), OK
	for i := range r.Checks {
		c := &r.Checks[i]
		switch c.Status {
		case OK:
			r.Summary.OK++
		case Skipped:
			r.Summary.Skipped++
		case Warn:
			r.Summary.Warn++
			if r.Status == OK {
				r.Status = Warn
			}
		case Fail:
			r.Summary.Fail++
			if r.Status != Fail {
				r.Status, r.Class, r.ExitCode = Fail, c.Class, exitCodes[c.Class]
			}
		}
	}
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// Scrub removes secrets from all texts: what others answer is quoted, and may repeat them.
func (r *Report) Scrub(secrets ...string) {
	for i := range r.Checks {
		c := &r.Checks[i]
		for _, text := range []*string{&c.What, &c.Fix} {
			for _, secret := range secrets {
				if len(secret) >= minSecret {
					*text = strings.ReplaceAll(*text, secret, "[secret]")
				}
			}
		}
	}
}

// Formats of the output.
const (
	FormatTable = "table"
	FormatJSON  = "json"
)

// Write prints the report.
func (r *Report) Write(w io.Writer, format string) error {
	switch format {
	case FormatTable:
		return r.writeTable(w)
	case FormatJSON:
		out, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		_, err = w.Write(append(out, '\n'))
		return err
	default:
		return fmt.Errorf("%q is not a format: use %s or %s", format, FormatTable, FormatJSON)
	}
}

// ExitError makes a process end with an exit code of the catalogue, when the report has been printed already.
type ExitError struct{ Code int }

func (e *ExitError) Error() string {
	return fmt.Sprintf("the doctor found something wrong (exit code %d)", e.Code)
}

// Err is nil, or an ExitError if a check failed.
func (r *Report) Err() error {
	if r.ExitCode == 0 {
		return nil
	}
	return &ExitError{Code: r.ExitCode}
}
