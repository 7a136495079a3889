package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/server"
	"gitlab.com/agentk/agentk/internal/secretfile"
	"gitlab.com/agentk/agentk/internal/version"
)

func doctorCommand() *cobra.Command {
	var file, tokenFile, format string
	var skip []string
	cmd := &cobra.Command{
		Use:   "doctor --configuration-file FILE",
		Short: "Find out why kas does not work",
		Long: "doctor looks at the configuration file, the files and addresses that it names, and at what kas needs of others: GitLab, Gitaly, Redis. It\n" +
			"says what is wrong and what to do about it. It changes nothing, and may run beside a kas that is up, best as the same user.\n\n" +
			"The exit code is 0 if nothing is broken, 1 for mistakes in the command line, otherwise the class of the first thing that is broken:\n" +
			"10 network, 11 TLS, 12 HTTP, 13 token, 14 clock, 15 Kubernetes, 16 configuration, 17 what kas needs, 18 the agent behind kas.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("--configuration-file is required")
			}
			if format != doctor.FormatTable && format != doctor.FormatJSON {
				return fmt.Errorf("--output: must be %s or %s", doctor.FormatTable, doctor.FormatJSON)
			}
			cfg := server.Config{Path: file, Getenv: os.Getenv}
			if tokenFile != "" {
				var err error
				if cfg.AgentToken, err = secretfile.New(tokenFile).Read(); err != nil {
					return fmt.Errorf("--agent-token-file: %w", err)
				}
			}
			d := server.New(cmd.Context(), cfg)
			report := doctor.Run(cmd.Context(), doctor.Head{Program: "kas", Version: version.Version, Mode: "kas", Target: file}, d.Checks(), skip)
			report.Scrub(d.Secrets()...)
			if err := report.Write(cmd.OutOrStdout(), format); err != nil {
				return fmt.Errorf("print the report: %w", err)
			}
			return report.Err()
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().StringVar(&tokenFile, "agent-token-file", "", "file with the token of some agent, to look at its repository through Gitaly as well")
	cmd.Flags().StringVarP(&format, "output", "o", doctor.FormatTable, "output as "+doctor.FormatTable+" or "+doctor.FormatJSON)
	cmd.Flags().StringArrayVar(&skip, "skip", nil, "leave out the check with this id, as in the JSON output (repeatable)")
	return cmd
}
