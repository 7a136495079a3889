// Package show is the subcommand that prints the version, the same for both daemons.
package show

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/internal/version"
)

// build is what there is to know about a program.
type build struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"goVersion"`
	Platform string `json:"platform"`
}

var formats = []string{"text", "json", "yaml"}

// Command returns the subcommand "version" of the program called name.
func Command(name string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build{
				Name: name, Version: version.Version, Commit: version.Commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			}
			text, err := b.encode(format)
			if err != nil {
				return err
			}
			if _, err = cmd.OutOrStdout().Write(text); err != nil {
				return fmt.Errorf("print version: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", formats[0], "text, json or yaml")
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (b build) encode(format string) ([]byte, error) {
	switch format {
	case "text":
		return fmt.Appendf(nil, "%s %s, commit %s, %s, %s\n", b.Name, b.Version, b.Commit, b.Go, b.Platform), nil
	case "json":
		text, err := json.MarshalIndent(b, "", "  ")
		return append(text, '\n'), err
	case "yaml":
		return yaml.Marshal(b)
	default:
		return nil, fmt.Errorf("--output %q: must be text, json or yaml", format)
	}
}
