// Package cli is the command line of agentk: its flags and environment, checked and turned into what the daemon is started with.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/internal/version/show"
)

// RunFunc is the daemon: it runs until ctx ends and then stops in order. It returns nil after such a stop.
type RunFunc func(ctx context.Context, cfg agentk.Config, log *telemetry.Log) error

// Process is what the command line sees of the process it runs in.
type Process struct {
	In       io.Reader
	Out, Err io.Writer
	// Getenv, Unsetenv and Environ are those of package os.
	Getenv   func(string) string
	Unsetenv func(string) error
	Environ  func() []string
	Hostname func() (string, error)
	// NamespaceFile is where Kubernetes tells a pod its namespace.
	NamespaceFile string
	// CommandLineFile has the command line of the first process in this container.
	CommandLineFile string
}

// OS is the process as it is.
func OS() Process {
	return Process{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Unsetenv: os.Unsetenv, Environ: os.Environ, Hostname: os.Hostname,
		NamespaceFile: "/var/run/secrets/kubernetes.io/serviceaccount/namespace", CommandLineFile: "/proc/1/cmdline",
	}
}

// Main runs one command line (without the program's name) and returns the exit code of the process. The first SIGINT or SIGTERM
// stops the daemon in order, with code 0; a second one ends the process at once.
func Main(run RunFunc, args []string, p Process) int {
	ctx, restore := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer restore()
	// With the handlers gone, the next signal does what signals do by default.
	context.AfterFunc(ctx, restore)

	cmd := New(run, p)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil || (ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return 0
	}
	var found *doctor.ExitError
	if errors.As(err, &found) { // it has said all in its report
		return found.Code
	}
	fmt.Fprintln(p.Err, "Program aborted:", err)
	return 1
}

// New returns the command line around a daemon.
func New(run RunFunc, p Process) *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "agentk --kas-address URL --token-file FILE",
		Short: "GitLab agent for Kubernetes",
		Long: "agentk runs in a Kubernetes cluster and connects it to kas. CI jobs and users of GitLab reach the cluster's API through\n" +
			"this connection, as the identity that GitLab gives them. agentk only ever dials out.",
		Version:       version.Version + " commit " + version.Commit,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon(cmd, run, o, p)
		},
	}
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	o.bind(root.Flags())
	// It fails only for a flag that does not exist.
	_ = root.RegisterFlagCompletionFunc("log-format",
		cobra.FixedCompletions([]string{telemetry.FormatJSON, telemetry.FormatConsole}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(generateCommand(p), doctorCommand(p), gitopsCommand(p), show.Command("agentk"))
	return root
}

func daemon(cmd *cobra.Command, run RunFunc, o *options, p Process) error {
	if err := o.refuseReceptive(cmd.Flags()); err != nil {
		return err
	}
	log, err := telemetry.NewLog(telemetry.LogConfig{
		Output: p.Err, Format: o.logFormat, Level: zapcore.InfoLevel, GRPCLevel: zapcore.ErrorLevel,
	})
	if err != nil {
		return flagError("log-format", err)
	}
	cfg, err := o.config(p, log.Logger)
	if err != nil {
		return err
	}
	log.TakeOverLibraries()
	log.Info("agentk starts", zap.String("version", version.Version), zap.String("commit", version.Commit),
		zap.String("pod_namespace", cfg.Pod.Namespace), zap.String("pod_name", cfg.Pod.Name))
	if err = run(cmd.Context(), cfg, log); err != nil {
		return err
	}
	log.Info("agentk stopped")
	return nil
}

// flagError names the flag that is wrong.
func flagError(flag string, err error) error { return fmt.Errorf("--%s: %w", flag, err) }
