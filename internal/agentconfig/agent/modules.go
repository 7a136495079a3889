package agent

import (
	"context"

	"go.uber.org/zap/zapcore"

	"gitlab.com/agentk/agentk/api/agentcfg"
)

// worker applies configurations to one module, so that a slow module holds up no other.
type worker struct {
	module  Module
	pending chan *agentcfg.AgentConfiguration // holds the newest one only
}

// offer replaces what is pending. Only one goroutine offers.
func (w *worker) offer(cfg *agentcfg.AgentConfiguration) {
	select {
	case <-w.pending:
	default:
	}
	w.pending <- cfg
}

func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case cfg := <-w.pending:
			w.module.Apply(ctx, cfg)
		}
	}
}

// levels are the log levels of a configuration. The gRPC library's messages are for its developers: unset means errors only.
func levels(cfg *agentcfg.LoggingCF) (level, grpcLevel zapcore.Level) {
	grpcLevel = zapcore.ErrorLevel
	if cfg != nil && cfg.GrpcLevel != nil {
		grpcLevel = zapLevel(*cfg.GrpcLevel)
	}
	return zapLevel(cfg.GetLevel()), grpcLevel
}

func zapLevel(l agentcfg.LogLevelEnum) zapcore.Level {
	switch l {
	case agentcfg.LogLevelEnum_debug:
		return zapcore.DebugLevel
	case agentcfg.LogLevelEnum_warn:
		return zapcore.WarnLevel
	case agentcfg.LogLevelEnum_error:
		return zapcore.ErrorLevel
	default:
		return zapcore.InfoLevel
	}
}
