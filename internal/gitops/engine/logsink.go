package engine

import (
	"fmt"

	"github.com/go-logr/logr"
)

// logSink sends the log lines of the Kubernetes libraries to agentk: errors and warnings as what they are, the rest not at all.
type logSink struct {
	send   *sender
	values []any
}

func (s *logSink) Init(logr.RuntimeInfo) {}

// Enabled drops what the libraries say about their daily work.
func (s *logSink) Enabled(level int) bool { return level == 0 }

func (s *logSink) Info(_ int, message string, values ...any) { s.line("debug", message, values) }

func (s *logSink) Error(err error, message string, values ...any) {
	if err != nil {
		values = append(values, "error", err)
	}
	s.line("warn", message, values)
}

func (s *logSink) WithValues(values ...any) logr.LogSink {
	return &logSink{send: s.send, values: append(append([]any(nil), s.values...), values...)}
}

func (s *logSink) WithName(string) logr.LogSink { return s }

func (s *logSink) line(level, message string, values []any) {
	fields := map[string]string{}
	all := append(append([]any(nil), s.values...), values...)
	for i := 0; i+1 < len(all); i += 2 {
		fields[fmt.Sprint(all[i])] = fmt.Sprint(all[i+1])
	}
	s.send.log(level, message, fields)
}
