package doctor

// tokenCauses are about who somebody is.
var tokenCauses = []Cause{
	{
		"token-missing", Token, "There is no agent token: the file is missing, empty or cannot be read.",
		"Mount the Secret (chart: `config.token`, or `config.secretName` with the key `token`), and point `--token-file` at it.",
	},
	{
		"token-kind", Token, "This token is of another kind: an agent cannot use it.",
		"Make an agent token: in the configuration project under Operate > Kubernetes clusters, or POST /projects/ID/cluster_agents/ID/tokens. It begins with glagent-.",
	},
	{
		"agent-token-refused", Token, "Kas does not know this token: it was revoked, its agent was deleted, or it belongs to another GitLab.",
		"Make a new token for this agent, put it into the Secret, and check that the kas address is that of the same GitLab.",
	},
	{
		"job-token-refused", Token, "Kas does not accept the job's token: the job has ended, or the token belongs to another GitLab.",
		"Run it within the job. A kubeconfig cannot be used by a later job: do not cache it and do not hand it on as an artifact.",
	},
	{
		"job-token-stale", Token, "The kubeconfig holds another token than the job has now: it is from another job.",
		"Use the $KUBECONFIG of this very job.",
	},
	{
		"credential-shape", Token, "The credential in the kubeconfig is not one for kas.",
		"It must be ci:<agent id>:<job token>, as GitLab writes it, or pat:<agent id>:<personal access token with scope k8s_proxy>.",
	},
	{
		"user-token-refused", Token, "Kas accepts neither this token nor this user for the agent; it does not say which, so that nobody can guess.",
		"The token needs the scope k8s_proxy and must not have expired; `user_access` of the agent must name a project or group in which the user is at least Developer.",
	},
	{
		"kas-secret-refused", Token, "GitLab does not believe that kas is its kas: the shared secret is not the same on both sides.",
		"Put the same 32 bytes, in Base64, into `gitlab.authentication_secret_file` of kas and into GitLab (Omnibus: gitlab_kas['api_secret_key']; chart: global.kas.secret), and restart both.",
	},
	{
		"clock-offset", Clock, "The clocks of the two machines differ. The tokens between kas and GitLab are good for seconds only: GitLab refuses them when the clock of kas is 5 s ahead or 30 s behind.",
		"Synchronise both machines (chrony, systemd-timesyncd).",
	},
}

// kubernetesCauses are about what is allowed in the cluster, and its reachability from the agent.
var kubernetesCauses = []Cause{
	{
		"cluster-unreachable", Kubernetes, "The agent cannot talk to its own Kubernetes API server.",
		"In a pod: let the NetworkPolicy allow the API server, and mount the ServiceAccount token. Elsewhere: check `--kubeconfig`.",
	},
	{
		"cluster-credentials", Kubernetes, "The Kubernetes API server does not know the agent: its ServiceAccount token is missing, expired, or of another cluster.",
		"Let the pod mount its token (automountServiceAccountToken), or renew the kubeconfig.",
	},
	{
		"impersonate", Kubernetes, "The agent's account may not impersonate. Requests of jobs and users with access_as other than agent end in 403 \"cannot impersonate\".",
		"Bind it a ClusterRole with the verb impersonate on users and groups, and on * of authentication.k8s.io (chart: the RBAC profile impersonate-only; or cluster-admin).",
	},
	{
		"impersonation-token", Kubernetes, "The agent may not take tokens for the account that impersonates in its place.",
		"Grant its account `create` on serviceaccounts/token, with that account as resourceNames (the chart does with its impersonation account).",
	},
	{
		"lease", Kubernetes, "The agent may not use Leases in its namespace. Replicas cannot choose a leader, so that the modules that run once do not run.",
		"Grant get, create, update and delete on leases of coordination.k8s.io in the agent's namespace (the chart does).",
	},
	{
		"job-rights", Kubernetes, "The cluster knows the job and lets it do nothing (or not this): RBAC has no rule for its user or its groups.",
		"Bind a role to one of the job's groups.",
	},
	{
		"nested-impersonation", Kubernetes, "The client impersonates (--as), and the agent would have to as well for access_as. Both at once is refused.",
		"Drop --as, --as-group and as: of the kubeconfig, or use `access_as: {agent: {}}`.",
	},
	{
		"cluster-behind-agent", Agent, "The agent is connected and its Kubernetes API server does not answer it.",
		"Run `agentk doctor` in the agent's pod: it says what is wrong there.",
	},
	{
		"agent-offline", Agent, "Kas has no connection of this agent: it does not run, cannot reach kas, or is connected to another replica that this one cannot reach.",
		"Run `agentk doctor` in the agent's pod. With several replicas of kas, check Redis and OWN_PRIVATE_API_URL.",
	},
	{
		"agent-busy", Agent, "The agent serves as many requests as it may at once.",
		"Try again; then raise `--tunnel-max-streams` of the agent, or run more replicas of it.",
	},
}
