package telemetry

import (
	"fmt"
	"io"

	"github.com/go-logr/logr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// Formats of log lines.
const (
	// FormatJSON writes one JSON object per line.
	FormatJSON = "json"
	// FormatConsole writes lines for people.
	FormatConsole = "console"
)

// LogConfig says how a daemon logs.
type LogConfig struct {
	// Output receives the lines, usually standard error.
	Output io.Writer
	// Format is FormatJSON or FormatConsole; empty means JSON.
	Format string
	// Level is the least level of the daemon's own lines.
	Level zapcore.Level
	// GRPCLevel is that of the gRPC library, which is noisy and therefore has its own.
	GRPCLevel zapcore.Level
}

// Log is the log of a daemon. Both levels may be changed while it runs.
type Log struct {
	*zap.Logger
	Level     zap.AtomicLevel
	GRPCLevel zap.AtomicLevel

	grpc *zap.Logger
}

// NewLog returns a log whose lines have the keys level, time (ISO 8601 with milliseconds and zone), msg and, for an error,
// error.
func NewLog(cfg LogConfig) (*Log, error) {
	keys := zapcore.EncoderConfig{
		LevelKey:       "level",
		TimeKey:        "time",
		MessageKey:     "msg",
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.ISO8601TimeEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
	}
	var enc zapcore.Encoder
	switch cfg.Format {
	case "", FormatJSON:
		enc = zapcore.NewJSONEncoder(keys)
	case FormatConsole:
		enc = zapcore.NewConsoleEncoder(keys)
	default:
		return nil, fmt.Errorf("log format must be %s or %s", FormatJSON, FormatConsole)
	}
	out := zapcore.Lock(zapcore.AddSync(cfg.Output))
	l := &Log{Level: zap.NewAtomicLevelAt(cfg.Level), GRPCLevel: zap.NewAtomicLevelAt(cfg.GRPCLevel)}
	complain := zap.ErrorOutput(out)
	l.Logger = zap.New(zapcore.NewCore(enc, out, l.Level), complain)
	l.grpc = zap.New(zapcore.NewCore(enc, out, l.GRPCLevel), complain).With(zap.String(ModName, "grpc"))
	return l, nil
}

// TakeOverLibraries sends the lines of the gRPC and Kubernetes libraries to this log. The libraries keep one logger for the
// whole process and gRPC reads it without a lock: call it once, from the start of the program, before either is used.
func (l *Log) TakeOverLibraries() {
	grpclog.SetLoggerV2(zapgrpc.NewLogger(l.grpc))
	klog.SetLogger(logr.New(&kubeSink{log: l.Logger.With(zap.String(ModName, "kubernetes"))}))
}

// ParseLevel reads a level of a configuration file: debug, info, warn or error. Its argument is usually an enum of agentcfg
// or kascfg.
func ParseLevel(level fmt.Stringer) (zapcore.Level, error) {
	parsed, err := zapcore.ParseLevel(level.String())
	if err != nil || parsed < zapcore.DebugLevel || parsed > zapcore.ErrorLevel {
		return zapcore.InfoLevel, fmt.Errorf("log level %q is none of debug, info, warn, error", level.String())
	}
	return parsed, nil
}

// kubeSink passes the Kubernetes libraries' lines to zap.
type kubeSink struct{ log *zap.Logger }

// Init does nothing: call depth is not logged.
func (s *kubeSink) Init(logr.RuntimeInfo) {}

// Enabled leaves out everything verbose: at the levels of debugging those libraries write request headers and bodies, and
// these carry credentials.
func (s *kubeSink) Enabled(level int) bool { return level <= 0 }

// Info logs a line.
func (s *kubeSink) Info(_ int, msg string, keysAndValues ...any) {
	s.log.Info(msg, kubeFields(keysAndValues)...)
}

// Error logs a line with an error, which may be nil.
func (s *kubeSink) Error(err error, msg string, keysAndValues ...any) {
	s.log.Error(msg, append(kubeFields(keysAndValues), zap.Error(err))...)
}

// WithValues returns a sink whose lines have more fields.
func (s *kubeSink) WithValues(keysAndValues ...any) logr.LogSink {
	return &kubeSink{log: s.log.With(kubeFields(keysAndValues)...)}
}

// WithName returns a sink whose lines say which part of the library speaks.
func (s *kubeSink) WithName(name string) logr.LogSink {
	return &kubeSink{log: s.log.With(zap.String("logger", name))}
}

func kubeFields(keysAndValues []any) []zap.Field {
	fields := make([]zap.Field, 0, len(keysAndValues)/2+1)
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		// Printed by their own String methods only: encoding arbitrary objects by reflection may show more than was meant.
		fields = append(fields, zap.String(fmt.Sprint(keysAndValues[i]), fmt.Sprint(keysAndValues[i+1])))
	}
	return fields
}
