package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"gitlab.com/agentk/agentk/internal/agentconfig"
	"gitlab.com/agentk/agentk/internal/standalone"
)

// jobTokenEnv is where every CI job has its token.
const jobTokenEnv = "CI_JOB_TOKEN"

// maxTokenSize bounds a token that is read from a file or standard input.
const maxTokenSize = 64 << 10

func standaloneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "standalone",
		Short: "Tools for running kas without GitLab",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(hashTokenCommand(), kubeconfigCommand())
	return cmd
}

func hashTokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash-token",
		Short: "Read a token from standard input and print its hash",
		Long: "hash-token prints the lower-case hexadecimal SHA-256 of the token on standard input, as token_sha256 of the standalone\n" +
			"section wants it. One newline at the end is not part of the token.",
		Example: "  openssl rand -hex 32 | tee agent-token | kas standalone hash-token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := readToken(cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("token on standard input: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), standalone.HashToken(token))
			return err
		},
	}
}

func kubeconfigCommand() *cobra.Command {
	var file, tokenFile string
	var opts standalone.KubeconfigOptions
	cmd := &cobra.Command{
		Use:   "kubeconfig --configuration-file FILE --job ID",
		Short: "Print the kubeconfig of a CI job of the standalone section",
		Long: "kubeconfig prints what a CI job finds in $KUBECONFIG: a context for every agent it may use. The job's token comes from the\n" +
			"environment variable " + jobTokenEnv + ", or from --token-file. The output holds the token.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd.Context(), file)
			if err != nil {
				return err
			}
			if !cfg.Standalone() {
				return fmt.Errorf("configuration file %s has no standalone section", file)
			}
			if opts.Token, err = jobToken(tokenFile, cmd.InOrStdin()); err != nil {
				return err
			}
			out, err := standalone.Kubeconfig(cmd.Context(), standalone.Config{
				File: cfg.File.GetStandalone(), Parse: agentconfig.Parse,
				MaxConfigFileSize: int64(cfg.File.GetAgent().GetConfiguration().GetMaxConfigurationFileSize()),
			}, opts)
			if err != nil {
				return err
			}
			if _, err = cmd.OutOrStdout().Write(out); err != nil {
				return fmt.Errorf("print kubeconfig: %w", err)
			}
			return nil
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().Int64Var(&opts.JobID, "job", 0, "id of the job (required)")
	cmd.Flags().StringVar(&opts.Server, "server", "", "address of the Kubernetes API proxy (default: kubernetes_api_url of the standalone section)")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the job's token, or - for standard input (default: $"+jobTokenEnv+")")
	return cmd
}

// jobToken takes the token from the flag's file, otherwise from the environment; none at all is for Kubeconfig to refuse.
func jobToken(file string, stdin io.Reader) (string, error) {
	switch file {
	case "":
		return os.Getenv(jobTokenEnv), nil
	case "-":
		token, err := readToken(stdin)
		if err != nil {
			return "", fmt.Errorf("job token on standard input: %w", err)
		}
		return token, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("job token: %w", err)
	}
	token, err := readToken(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", fmt.Errorf("job token in %s: %w", file, err)
	}
	return token, nil
}

// readToken reads one token and one newline that may follow it. White space inside is refused rather than hashed: it is a
// second line, or a line end of another system, and a token with it would never match.
func readToken(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTokenSize+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSuffix(string(data), "\n")
	switch {
	case token == "":
		return "", errors.New("it is empty")
	case len(data) > maxTokenSize:
		return "", fmt.Errorf("it is longer than %d bytes", maxTokenSize)
	case strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "", errors.New("it has white space or control characters inside; give one token and at most one newline")
	}
	return token, nil
}
