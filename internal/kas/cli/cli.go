// Package cli is the command line of kas: the daemon itself, and the tools around its configuration file.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/internal/version/show"
)

// RunFunc is the daemon: it logs what is special about its configuration, runs until ctx ends and then stops in order. It
// returns nil after such a stop.
type RunFunc func(ctx context.Context, cfg *config.Config, log *telemetry.Log) error

// Streams are the standard streams of the process.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Main runs one command line (without the program's name) and returns the exit code of the process. The first SIGINT or
// SIGTERM stops the daemon in order, with code 0; a second one ends the process at once.
func Main(run RunFunc, args []string, std Streams) int {
	ctx, restore := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer restore()
	// With the handlers gone, the next signal does what signals do by default.
	context.AfterFunc(ctx, restore)

	cmd := New(run)
	cmd.SetArgs(args)
	cmd.SetIn(std.In)
	cmd.SetOut(std.Out)
	cmd.SetErr(std.Err)
	err := cmd.ExecuteContext(ctx)
	if err == nil || (ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return 0
	}
	var found *doctor.ExitError
	if errors.As(err, &found) { // it has said all in its report
		return found.Code
	}
	fmt.Fprintln(std.Err, "Program aborted:", err)
	return 1
}

// New returns the command line around a daemon.
func New(run RunFunc) *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:   "kas --configuration-file FILE",
		Short: "Server of the GitLab agent for Kubernetes",
		Long: "kas runs beside GitLab, or by itself with a standalone section in its configuration file. Agents connect to it, and CI\n" +
			"jobs reach the clusters of these agents through it.",
		Version:       version.Version + " commit " + version.Commit,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon(cmd, run, file)
		},
	}
	fileFlag(root, &file)
	root.AddCommand(validateCommand(), doctorCommand(), standaloneCommand(), show.Command("kas"))
	return root
}

func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "configuration-file", "", "configuration file of kas, YAML (required)")
}

// load reads the configuration file of a flag.
func load(ctx context.Context, file string) (*config.Config, error) {
	if file == "" {
		return nil, errors.New("--configuration-file is required")
	}
	return config.Load(ctx, file)
}

func daemon(cmd *cobra.Command, run RunFunc, file string) error {
	cfg, err := load(cmd.Context(), file)
	if err != nil {
		return err
	}
	log, err := newLog(cfg, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	log.TakeOverLibraries()
	return run(cmd.Context(), cfg, log)
}

func newLog(cfg *config.Config, out io.Writer) (*telemetry.Log, error) {
	l := cfg.File.GetObservability().GetLogging()
	level, err := telemetry.ParseLevel(l.GetLevel())
	if err != nil {
		return nil, err
	}
	grpcLevel, err := telemetry.ParseLevel(l.GetGrpcLevel())
	if err != nil {
		return nil, err
	}
	return telemetry.NewLog(telemetry.LogConfig{Output: out, Format: l.GetFormat(), Level: level, GRPCLevel: grpcLevel})
}
