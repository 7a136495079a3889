package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/agentconfig"
	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/doctor"
	gitopsagent "gitlab.com/agentk/agentk/internal/gitops/agent"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/gitops/agent/overview"
	"gitlab.com/agentk/agentk/internal/gitops/agent/preview"
	"gitlab.com/agentk/agentk/internal/kuberest"
)

// differ is the exit code of --exit-code for a cluster that would change.
const differ = 2

// gitopsCommand has what people ask about GitOps. It talks to the cluster, not to the agent.
func gitopsCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gitops",
		Short: "See what GitOps did and would do in a cluster",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(statusCommand(), diffCommand(p))
	return cmd
}

// syncOptions are the flags of both.
type syncOptions struct {
	kubernetes kubernetesFlags
	filter     overview.Filter
}

func (o *syncOptions) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.Int64Var(&o.filter.AgentID, "agent-id", 0, "numeric id of the agent, where a cluster has several")
	o.kubernetes.bind(f)
}

// list reads the states that the flags and at most one argument mean.
func (o *syncOptions) list(ctx context.Context, args []string) ([]overview.Sync, *rest.Config, error) {
	cfg, err := o.kubernetes.load()
	if err != nil {
		return nil, nil, fmt.Errorf("access to the cluster: %w", err)
	}
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("access to the cluster: %w", err)
	}
	defer httpClient.CloseIdleConnections()
	client, err := kuberest.New(cfg, httpClient)
	if err != nil {
		return nil, nil, err
	}
	if o.filter.Namespace = o.kubernetes.overrides.Context.Namespace; len(args) > 0 {
		o.filter.Unit = args[0]
	}
	all, err := overview.List(ctx, client, o.filter)
	return all, cfg, err
}

func statusCommand() *cobra.Command {
	o := &syncOptions{}
	var format string
	cmd := &cobra.Command{
		Use:   "status [PROJECT | RELEASE]",
		Short: "Print how synchronisations stand",
		Long: "status prints the newest synchronisation of each manifest project and chart, as the agent has written it into ConfigMaps\n" +
			"gitops-status-<agent id>-<project id>, and the objects that are not fine. For one project or release it prints all objects.",
		Example: "  agentk gitops status\n  agentk gitops status group/manifests -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != doctor.FormatTable && format != doctor.FormatJSON {
				return flagError("output", fmt.Errorf("must be %s or %s", doctor.FormatTable, doctor.FormatJSON))
			}
			all, _, err := o.list(cmd.Context(), args)
			if err != nil {
				return err
			}
			if format == doctor.FormatJSON {
				return overview.JSON(cmd.OutOrStdout(), all)
			}
			if len(all) == 0 {
				return errors.New("there is no synchronisation yet")
			}
			return overview.Table(cmd.OutOrStdout(), all, time.Now(), len(args) > 0)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", doctor.FormatTable, "output as "+doctor.FormatTable+" or "+doctor.FormatJSON)
	o.bind(cmd)
	return cmd
}

// diffOptions are the flags of diff.
type diffOptions struct {
	syncOptions
	dir, config, engine string
	exitCode            bool
}

func diffCommand(p Process) *cobra.Command {
	o := &diffOptions{}
	cmd := &cobra.Command{
		Use:   "diff [PROJECT] --dir CHECKOUT",
		Short: "Show what the next synchronisation would change",
		Long: "diff renders a checkout of a manifest project's repository as the agent would, compares it with the cluster and prints what would be\n" +
			"created, changed and deleted; it changes nothing. Which project it is, and which objects are its own, is read from the cluster's\n" +
			"state of synchronisations: the project must have been synchronised once. Paths and policies are those of the agent's configuration\n" +
			"file if --agent-config names it, and the defaults otherwise. It needs the executable agentk-gitops, and credentials that are no\n" +
			"program. Charts are shown by helm template.",
		Example: "  agentk gitops diff --dir . --agent-config .gitlab/agents/prod/config.yaml\n  agentk gitops diff group/manifests --dir ../manifests --exit-code",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, p, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "root of the checkout (required)")
	f.StringVar(&o.config, "agent-config", "", "the agent's configuration file")
	f.BoolVar(&o.exitCode, "exit-code", false, fmt.Sprintf("end with code %d if something would change", differ))
	f.StringVar(&o.engine, "gitops-engine", "", "executable of the GitOps engine (default: agentk-gitops beside agentk)")
	o.bind(cmd)
	return cmd
}

func (o *diffOptions) run(cmd *cobra.Command, p Process, args []string) error {
	if o.dir == "" {
		return errors.New("--dir is required")
	}
	all, cfg, err := o.list(cmd.Context(), args)
	if err != nil {
		return err
	}
	sync, id, err := onlyProject(all)
	if err != nil {
		return err
	}
	spec, err := o.spec(sync)
	if err != nil {
		return err
	}
	if o.engine == "" {
		if o.engine, err = agentk.EngineExecutable(); err != nil {
			return err
		}
	}
	access, err := child.NewAccess(cfg, p.Getenv)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	found := false
	done, err := preview.Run(cmd.Context(), preview.Config{
		Dir: o.dir, Project: spec, ProjectID: id, AgentID: sync.AgentID,
		Engine: o.engine, Memory: agentk.DefaultGitOpsMemory, Access: access,
		Found: func(d *engine.Diff) error {
			found = true
			return printDiff(out, d)
		},
		Logged: func(l *engine.Log) { warn(p.Err, l) },
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Err, "%s: %d to apply, %d to delete, %d refused\n", sync.Unit, done.GetApplied(), done.GetPruned(), done.GetFailed())
	if found && o.exitCode {
		return &doctor.ExitError{Code: differ}
	}
	return nil
}

// onlyProject wants one manifest project.
func onlyProject(all []overview.Sync) (overview.Sync, int64, error) {
	var names []string
	var one overview.Sync
	var id int64
	for _, s := range all {
		if n, ok := s.ProjectID(); ok {
			names = append(names, fmt.Sprintf("%s (agent %d)", s.Unit, s.AgentID))
			one, id = s, n
		}
	}
	switch len(names) {
	case 1:
		return one, id, nil
	case 0:
		return one, 0, errors.New("the cluster has no such manifest project: it must have been synchronised once, and charts are shown by helm template")
	default:
		return one, 0, errors.New("which one: " + strings.Join(names, ", ") + "? Name the project, and --agent-id")
	}
}

// spec is the configuration of the project.
func (o *diffOptions) spec(sync overview.Sync) (*agentcfg.ManifestProjectCF, error) {
	if o.config == "" {
		one := &agentcfg.ManifestProjectCF{Id: &sync.Unit, DefaultNamespace: sync.Namespace}
		return gitopsagent.ManifestProject(&agentcfg.GitopsCF{ManifestProjects: []*agentcfg.ManifestProjectCF{one}}, sync.Unit)
	}
	content, err := os.ReadFile(o.config)
	if err != nil {
		return nil, flagError("agent-config", err)
	}
	file, err := agentconfig.Parse(content)
	if err == nil {
		var spec *agentcfg.ManifestProjectCF
		if spec, err = gitopsagent.ManifestProject(file.GetGitops(), sync.Unit); err == nil {
			return spec, nil
		}
	}
	return nil, flagError("agent-config", err)
}

func printDiff(out io.Writer, d *engine.Diff) error {
	where := d.GetFile()
	if where != "" {
		where = fmt.Sprintf(" (%s:%d)", where, d.GetLine())
	}
	_, err := fmt.Fprintf(out, "%s %s%s\n%s\n", strings.ToLower(d.GetAction().String()), d.GetObject(), where, strings.TrimRight(d.GetText(), "\n"))
	return err
}

// warn prints what the engine warns of.
func warn(out io.Writer, l *engine.Log) {
	if l.GetLevel() == "warn" || l.GetLevel() == "error" {
		fmt.Fprintln(out, l.GetLevel()+":", l.GetMessage(), l.GetFields()["error"])
	}
}
