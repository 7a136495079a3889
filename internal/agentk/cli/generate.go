package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.com/agentk/agentk/internal/agentk/manifest"
	"gitlab.com/agentk/agentk/internal/secretfile"
	"gitlab.com/agentk/agentk/internal/version"
)

const (
	defaultNamespace = "gitlab-agent"
	// fromInput as a token means standard input.
	fromInput = "-"
	// maxToken bounds what is read from there, in bytes.
	maxToken = 64 << 10
)

func generateCommand(p Process) *cobra.Command {
	var cfg manifest.Config
	cmd := &cobra.Command{
		Use:   "generate --agent-token TOKEN --kas-address URL",
		Short: "Print the manifests that install an agent",
		Long: "generate prints what an agent needs in a cluster, for \"kubectl apply -f -\": its namespace, accounts and their rights, the\n" +
			"token in a Secret, and the Deployment. Unless --no-rbac is given the agent may do everything in the cluster.",
		Example: "  agentk generate --agent-token - --kas-address wss://kas.example.com <token | kubectl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return generate(cfg, p)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&cfg.Token, "agent-token", "", "agent token; - reads it from standard input, where other users cannot see it (required)")
	f.StringVar(&cfg.KasAddress, "kas-address", "", "address of kas: a URL with scheme wss, ws, grpcs or grpc (required)")
	f.StringVar(&cfg.Version, "agent-version", version.Version, "version of agentk to install")
	f.StringVar(&cfg.Namespace, "namespace", defaultNamespace, "namespace to install into")
	f.StringVar(&cfg.NamePrefix, "name-prefix", "", "prefix of the names of all objects, for several agents in one namespace")
	f.BoolVar(&cfg.NoRBAC, "no-rbac", false, "leave out roles, bindings and the account that impersonates: give the agent its rights yourself")
	return cmd
}

func generate(cfg manifest.Config, p Process) error {
	switch {
	case cfg.Token == "":
		return errors.New("--agent-token is required; - reads it from standard input")
	case cfg.KasAddress == "":
		return errors.New("--kas-address is required")
	case cfg.Token == fromInput:
		content, err := io.ReadAll(io.LimitReader(p.In, maxToken))
		if err != nil {
			return fmt.Errorf("agent token from standard input: %w", err)
		}
		if cfg.Token = secretfile.Trim(string(content)); cfg.Token == "" {
			return errors.New("--agent-token -: there is nothing on standard input")
		}
	}
	// Tags begin with v; so do versions here, also when somebody copies the number alone.
	if cfg.Version != "" && strings.Trim(cfg.Version, "0123456789.") == "" {
		cfg.Version = "v" + cfg.Version
	}
	out, err := manifest.Render(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintln(p.Err, "warning: the output contains the agent token: do not commit it")
	if _, err = p.Out.Write(out); err != nil {
		return fmt.Errorf("print manifests: %w", err)
	}
	return nil
}
