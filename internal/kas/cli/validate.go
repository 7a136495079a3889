package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.com/agentk/agentk/internal/protoyaml"
)

func validateCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "validate --configuration-file FILE",
		Short: "Check a configuration file and print what it amounts to",
		Long: "validate prints the configuration with all defaults filled in and secrets masked. Keys that have no effect are named on\n" +
			"standard error. A file with mistakes is refused, each of them named with its line, and the exit code is 1. A command in\n" +
			"config.command is run, and what it prints is part of the configuration.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd.Context(), file)
			var mistakes protoyaml.Mistakes
			if errors.As(err, &mistakes) {
				for _, m := range mistakes {
					fmt.Fprintln(cmd.ErrOrStderr(), "error:", m)
				}
				return fmt.Errorf("configuration file %s is not valid", file)
			}
			if err != nil {
				return err
			}
			for _, w := range append(cfg.Warnings, cfg.Unsupported...) {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			if err := cfg.CheckEnvironment(os.Getenv); err != nil {
				for text := range strings.SplitSeq(err.Error(), "\n") {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", text)
				}
			}
			out, err := protoyaml.Encode(cfg.File)
			if err != nil {
				return err
			}
			if _, err = cmd.OutOrStdout().Write(out); err != nil {
				return fmt.Errorf("print configuration: %w", err)
			}
			return nil
		},
	}
	fileFlag(cmd, &file)
	return cmd
}
