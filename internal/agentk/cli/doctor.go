package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/agent"
	"gitlab.com/agentk/agentk/internal/doctor/job"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/version"
)

// Modes of the doctor: from where it looks.
const (
	modePod    = "pod"
	modeRemote = "remote"
	modeJob    = "job"
)

// doctorOptions are the values of the doctor's own flags.
type doctorOptions struct {
	agent  options
	format string
	skip   []string
	can    []string
	job    bool
}

// daemonOnly are flags of the agent that have nothing to do with what the doctor looks at.
var daemonOnly = []string{
	"observability-listen-network", "observability-listen-address", "observability-cert-file", "observability-key-file",
	"tunnel-max-streams", "shutdown-grace-period", "log-format", "gitops-engine", "gitops-memory-limit", "gitops-values-url",
}

func doctorCommand(p Process) *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out why an agent, or a job's kubectl, does not work",
		Long: "doctor looks at the way from here to the other end hop by hop, and says what is wrong and what to do about it. It changes nothing.\n\n" +
			"In the agent's pod it uses the agent's own flags: kubectl exec DEPLOYMENT -- agentk doctor. Elsewhere it wants --kas-address; without a\n" +
			"token it stops before authentication, without --kubeconfig it leaves the cluster alone. In a CI job it looks at the job's $KUBECONFIG.\n\n" +
			"The exit code is 0 if nothing is broken, 1 for mistakes in the command line, otherwise the class of the first thing that is broken:\n" +
			"10 network, 11 TLS, 12 HTTP, 13 token, 14 clock, 15 Kubernetes, 16 configuration, 17 what kas needs, 18 the agent behind kas.",
		Example: "  kubectl -n gitlab-agent exec deploy/gitlab-agent -- agentk doctor\n" +
			"  agentk doctor --kas-address wss://kas.example.com\n" +
			"  agentk doctor --context group/project:agent --can \"create deployments.apps\"",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, p) },
	}
	f := cmd.Flags()
	o.agent.bind(f)
	for _, name := range daemonOnly {
		_ = f.MarkHidden(name) // accepted, so that the agent's flags can be given as they are
	}
	f.StringVarP(&o.format, "output", "o", doctor.FormatTable, "output as "+doctor.FormatTable+" or "+doctor.FormatJSON)
	f.StringArrayVar(&o.skip, "skip", nil, "leave out the check with this id, as in the JSON output (repeatable)")
	f.BoolVar(&o.job, modeJob, false, "look at a kubeconfig for kas, as in a CI job")
	f.StringArrayVar(&o.can, "can", nil, "in a job: an action that must be allowed, \"VERB RESOURCE[/SUBRESOURCE][.GROUP]\" (repeatable)")
	return cmd
}

func (o *doctorOptions) run(cmd *cobra.Command, p Process) error {
	if o.format != doctor.FormatTable && o.format != doctor.FormatJSON {
		return flagError("output", fmt.Errorf("must be %s or %s", doctor.FormatTable, doctor.FormatJSON))
	}
	inJob := o.job || o.agent.kasAddress == "" && o.agent.configFile == "" && (p.Getenv("CI_JOB_ID") != "" || p.Getenv("GITLAB_CI") != "")
	if inJob {
		return o.runJob(cmd, p)
	}
	if len(o.can) > 0 {
		return flagError("can", errors.New("is for jobs: see --job"))
	}
	return o.runAgent(cmd, p)
}

// runJob looks at a kubeconfig for kas.
func (o *doctorOptions) runJob(cmd *cobra.Command, p Process) error {
	flags := &o.agent.kubernetes
	cfg := job.Config{
		Kubeconfig: flags.kubeconfig, Context: flags.overrides.CurrentContext, Namespace: flags.overrides.Context.Namespace,
		JobToken: p.Getenv("CI_JOB_TOKEN"),
	}
	if cfg.Kubeconfig == "" {
		cfg.Kubeconfig = p.Getenv("KUBECONFIG")
	}
	if cfg.Context == "" {
		cfg.Context = p.Getenv("KUBE_CONTEXT")
	}
	for _, text := range o.can {
		what, err := parseAction(text)
		if err != nil {
			return flagError("can", err)
		}
		cfg.Wanted = append(cfg.Wanted, what)
	}
	d := job.New(cfg)
	defer d.Close()
	report := doctor.Run(cmd.Context(), head(modeJob, d.Target()), d.Checks(), o.skip)
	return o.print(cmd.OutOrStdout(), report, d.Secrets()...)
}

// parseAction reads "create deployments.apps" and the like.
func parseAction(text string) (kubeapi.Attributes, error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return kubeapi.Attributes{}, errors.New("must be a verb and a resource, such as \"create deployments.apps\"")
	}
	resource, group, _ := strings.Cut(words[1], ".")
	resource, sub, found := strings.Cut(resource, "/")
	if !found { // the group comes last in "pods/exec", too
		group, sub, _ = strings.Cut(group, "/")
	}
	return kubeapi.Attributes{Verb: words[0], Resource: resource, Group: group, Subresource: sub}, nil
}

// runAgent looks as an agent, or as one that is still to be installed.
func (o *doctorOptions) runAgent(cmd *cobra.Command, p Process) error {
	mode := modeRemote
	if p.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		mode = modePod
	}
	if err := o.adoptAgentFlags(cmd.Flags(), p.CommandLineFile); err != nil {
		return err
	}
	cfg, err := o.agentConfig(p, mode)
	if err != nil {
		return err
	}
	d := agent.New(cfg)
	defer d.Close()
	report := doctor.Run(cmd.Context(), head(mode, d.Target()), d.Checks(), o.skip)
	var secrets []string
	if cfg.Token != nil {
		secrets = append(secrets, cfg.Token())
	}
	for _, values := range cfg.Header {
		secrets = append(secrets, values...)
	}
	return o.print(cmd.OutOrStdout(), report, secrets...)
}

// agentConfig is what an agent with these flags would have. What is wrong with it is for the doctor to say, as far as it can.
func (o *doctorOptions) agentConfig(p Process, mode string) (agent.Config, error) {
	a := &o.agent
	if err := a.useConfigFile(zap.NewNop()); err != nil {
		return agent.Config{}, err
	}
	if a.kasAddress == "" {
		return agent.Config{}, errors.New("--kas-address is required, outside of the agent's container and of CI jobs")
	}
	pod := findPod(p, zap.NewNop())
	cfg := agent.Config{
		Address: a.kasAddress, CAFile: a.caFile, InsecureSkipVerify: a.insecure, ServerName: a.serverName,
		Namespace: pod.Namespace, Pod: pod.Name,
		ImpersonationServiceAccount: a.account, ImpersonationTokenFile: a.accountTokenFile,
	}
	if cfg.CAFile == "" {
		cfg.CAFile = a.oldCAFile
	}
	var err error
	if cfg.Header, err = parseHeaders(a.headers); err != nil {
		return cfg, flagError("kas-header", err)
	}
	none := a.tokenFile == "" && a.configToken == "" && p.Getenv(tokenVariable) == "" && p.Getenv(secretVariable) == ""
	if none && mode == modeRemote {
		cfg.NoToken = "neither --token-file nor the environment variable " + tokenVariable + " is given"
	} else if token, err := tokenSource(a.tokenFile, a.configToken, p, zap.NewNop()); err != nil {
		cfg.TokenError = err
	} else {
		cfg.Token = token
	}
	if mode == modePod || a.kubernetes.given() {
		cfg.REST, cfg.ClusterError = a.kubernetes.load()
	} else {
		cfg.NoCluster = "this is no pod, and there is no --kubeconfig"
	}
	return cfg, nil
}

// given says whether the flags name a cluster.
func (k *kubernetesFlags) given() bool {
	return k.kubeconfig != "" || k.overrides.CurrentContext != "" || k.overrides.ClusterInfo.Server != ""
}

// adoptAgentFlags takes the flags of the agent in whose container the doctor was started, unless it has an address of its own. file is
// that of the agent's command line; no such file means no such agent.
func (o *doctorOptions) adoptAgentFlags(own *pflag.FlagSet, file string) error {
	if o.agent.kasAddress != "" || o.agent.configFile != "" || file == "" {
		return nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil //nolint:nilerr // another process may hide it, and flags are asked for then
	}
	args := strings.Split(strings.TrimRight(string(content), "\x00"), "\x00")
	if filepath.Base(args[0]) != "agentk" || len(args) > 1 && args[1] == "doctor" { // another program, or ourselves
		return nil
	}
	theirs := pflag.NewFlagSet("agentk", pflag.ContinueOnError)
	theirs.SetOutput(io.Discard)
	(&options{}).bind(theirs)
	if err := theirs.ParseAll(args[1:], func(f *pflag.Flag, value string) error {
		mine := own.Lookup(f.Name)
		if mine == nil || own.Changed(f.Name) && f.Value.Type() != "stringArray" {
			return nil
		}
		return mine.Value.Set(value)
	}); err != nil {
		return fmt.Errorf("the flags of the agent in this container: %w", err)
	}
	return nil
}

func (o *doctorOptions) print(w io.Writer, report *doctor.Report, secrets ...string) error {
	report.Scrub(secrets...)
	if err := report.Write(w, o.format); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return report.Err()
}

func head(mode, target string) doctor.Head {
	return doctor.Head{Program: "agentk", Version: version.Version, Mode: mode, Target: target}
}
