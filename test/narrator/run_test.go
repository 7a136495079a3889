package narrator

import (
	"context"
	"errors"
	"strings"
	"testing"
)

type tale struct {
	n       *Narrator
	err     error
	cleaned bool
}

func (s *tale) Tell(ctx context.Context) error {
	return s.n.Step(ctx, "Once upon a time", func(context.Context) error { return s.err })
}

func (s *tale) Logs() map[string]string {
	return map[string]string{"kas": strings.Repeat("early\n", 1000) + "the end"}
}
func (s *tale) Exports() string { return "go on\n" }
func (s *tale) CleanUp()        { s.cleaned = true }

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		err         error
		keep        bool
		interruptAt string
		code        int
		want, never string
	}{
		"done":        {code: 0, want: "All 1 steps done", never: "log of kas"},
		"failed":      {err: errors.New("wolf"), code: 1, want: "log of kas:\n", never: "go on"},
		"kept":        {keep: true, interruptAt: "go on", code: 0, want: "another terminal, go on"},
		"interrupted": {interruptAt: "Once upon", code: Interrupted, never: "log of kas"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &Reader{At: tc.interruptAt, Do: cancel}
			if tc.interruptAt == "" {
				out.At = "\x00"
			}
			var s *tale
			code := Run(ctx, out, tc.keep, func(n *Narrator) Story {
				s = &tale{n: n, err: tc.err}
				if name == "interrupted" {
					s.err = context.Canceled
				}
				return s
			})
			text := out.String()
			if code != tc.code || !s.cleaned || !strings.Contains(text, tc.want) || tc.never != "" && strings.Contains(text, tc.never) {
				t.Errorf("code %d, want %d, cleaned %t:\n%s", code, tc.code, s.cleaned, text)
			}
			if n := strings.Count(text, "early"); n > logTail/5 {
				t.Errorf("%d lines of a log", n)
			}
		})
	}
}
