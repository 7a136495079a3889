package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
	"unicode"
)

const (
	// commandTimeout bounds config.command: kas does not start before it has ended.
	commandTimeout = 30 * time.Second
	// commandGrace is how long its pipes may stay open after it was killed, by processes that it left behind.
	commandGrace = time.Second
	// maxCommandOutput bounds what it may print.
	maxCommandOutput = 4 << 20
	// maxCommandError bounds what an error repeats of its standard error.
	maxCommandError = 1 << 10
)

// runCommand runs config.command and returns what it prints. There is no shell: the words of the line are the program and its
// arguments. Errors name the program only, since arguments may be secrets, and never show the output.
func runCommand(ctx context.Context, line string) ([]byte, error) {
	words, err := splitWords(line)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...) //nolint:gosec // the owner of the configuration file asked for it
	cmd.WaitDelay = commandGrace
	out, complaint := &boundedBuffer{limit: maxCommandOutput, cancel: cancel}, &boundedBuffer{limit: maxCommandError}
	cmd.Stdout, cmd.Stderr = out, complaint
	err = cmd.Run()
	switch {
	case out.full:
		return nil, fmt.Errorf("%s printed more than %d bytes", words[0], maxCommandOutput)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s did not end within %s", words[0], commandTimeout)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s was interrupted: %w", words[0], ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s ended with %s%s", words[0], exit.ProcessState, complaint.quoted())
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", words[0], errors.Unwrap(err))
	}
	return out.data.Bytes(), nil
}

// boundedBuffer keeps the first bytes that are written to it.
type boundedBuffer struct {
	data  bytes.Buffer
	limit int
	full  bool
	// cancel is called when there is more; nil drops it silently.
	cancel context.CancelFunc
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	room := b.limit - b.data.Len()
	if len(p) > room {
		b.data.Write(p[:room])
		b.full = true
		if b.cancel != nil {
			b.cancel()
		}
		return len(p), nil
	}
	return b.data.Write(p)
}

// quoted is the text as one line for an error.
func (b *boundedBuffer) quoted() string {
	text := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(b.data.String(), ""), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if text == "" {
		return ""
	}
	if b.full {
		text += "..."
	}
	return "; it said: " + text
}

// splitWords splits at white space. Single or double quotes keep it, and stand for themselves inside each other.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inside, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inside = r, true
		case unicode.IsSpace(r):
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inside {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("it names no program")
	}
	return words, nil
}
