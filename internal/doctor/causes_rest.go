package doctor

// configurationCauses are mistakes in what somebody wrote.
var configurationCauses = []Cause{
	{
		"kas-address", Configuration, "The kas address is not one.",
		"Write it as wss://HOST/PATH/, ws://, grpcs:// or grpc://, without user and password.",
	},
	{
		"ca-file", Configuration, "The file with trusted certificates cannot be used.",
		"It must exist, be readable, and hold certificates in PEM.",
	},
	{
		"version-skew", Configuration, "Kas and agent are further apart than one minor version. Some requests may fail, for example with \"Decompressor is not installed\" or \"Failed to register agent pod\".",
		"Upgrade the older one. They support one minor version of difference.",
	},
	{
		"agent-configuration", Configuration, "The agent's configuration file in git has a mistake; the last good one stays in use.",
		"Correct .gitlab/agents/NAME/config.yaml on the default branch. It is read again within seconds of the push, or at the next poll.",
	},
	{
		"no-agent-configuration", Configuration, "The agent has no configuration, or one that lets no job in.",
		"Add .gitlab/agents/NAME/config.yaml with ci_access or user_access to the default branch of the project in which the agent is registered. NAME is the agent's.",
	},
	{
		"no-kubeconfig", Configuration, "The job has no kubeconfig: GitLab injects none when no agent lets the job's project in, or when the job takes no variables from outside.",
		"Add the project, or a group of it, to ci_access in the agent's config.yaml; check `environments` and `protected_branches_only` there. Remove a KUBECONFIG variable of your own.",
	},
	{
		"kubeconfig-overridden", Configuration, "KUBECONFIG is not the file that GitLab injects: a variable of the project, the group or the pipeline replaces it, or its content was put where the path belongs.",
		"Remove the variable. In `variables:` of .gitlab-ci.yml $KUBECONFIG is the content, in `script:` it is the path.",
	},
	{
		"no-context", Configuration, "No context is chosen. kubectl then talks to localhost:8080.",
		"Choose one: `kubectl config use-context GROUP/PROJECT:AGENT`, or --context; Auto DevOps: the variable KUBE_CONTEXT.",
	},
	{
		"wrong-context", Configuration, "The kubeconfig has no such context: the path or the agent's name is misspelt, or that agent does not let this job in (its environment, its branch, another top-level group).",
		"Use one of the contexts that are there, or add the job's project to ci_access of the agent.",
	},
	{
		"not-in-ci-access", Configuration, "Kas knows the job and does not let it use this agent: ci_access names neither its project nor a group of it, or `environments` or `protected_branches_only` exclude it; access_as other than agent needs Premium.",
		"Correct ci_access in the agent's config.yaml. It takes up to two minutes until GitLab, and one more until kas, goes by it.",
	},
	{
		"kas-configuration", Configuration, "The configuration file of kas has mistakes; kas does not start with it.",
		"Correct the lines named. `kas validate` prints the whole configuration with its defaults.",
	},
	{
		"kas-configuration-warning", Configuration, "The configuration file has keys that have no effect.",
		"Remove them, unless they are meant for another version.",
	},
	{
		"secret-file", Configuration, "A file with a secret is missing, cannot be read, or does not hold what it should.",
		"The secrets are Base64: 32 bytes for `authentication_secret_file`, 64 to 72 for `websocket_token_secret_file`. The user of kas must be able to read them.",
	},
	{
		"listener-taken", Configuration, "Another program listens on this address: kas cannot.",
		"Stop the other program (`ss -ltnp` shows it), or change the address.",
	},
	{
		"listener-address", Configuration, "Kas cannot listen on this address: this machine does not have it, or the user of kas may not use it.",
		"Use an address of this machine or 0.0.0.0, and a port above 1023; the folder of a socket must exist and be writable.",
	},
	{
		"own-address", Configuration, "The address under which other replicas of kas reach this one is wrong.",
		"Set OWN_PRIVATE_API_URL to grpc://ADDRESS:8155 (grpcs:// with a certificate, then OWN_PRIVATE_API_HOST too), with an address that the other replicas reach.",
	},
	{
		"repository", Configuration, "A repository of the standalone section is not there or cannot be read: its agents get no configuration.",
		"Make it with `git init --bare`, below repositories_dir, readable by the user of kas.",
	},
}

// dependencyCauses are about what kas needs.
var dependencyCauses = []Cause{
	{
		"gitlab-unreachable", Dependency, "Kas cannot reach GitLab.",
		"Set `gitlab.address` to an address at which the machine of kas reaches GitLab (Omnibus: gitlab_kas['gitlab_address']), and see that GitLab runs.",
	},
	{
		"gitlab-trouble", Dependency, "What answers at GitLab's address is not GitLab's API, or GitLab itself is in trouble.",
		"Check `gitlab.address` (with the path, if GitLab lives below one), and GitLab's own health: ADDRESS/-/readiness.",
	},
	{
		"gitlab-behind-kas", Dependency, "Kas answers and cannot ask GitLab (or its other source) who may do what.",
		"Run `kas doctor` on the machine of kas: it says what is wrong there.",
	},
	{
		"gitaly-unreachable", Dependency, "Kas cannot read repositories: Gitaly is out of reach, or refuses the token that GitLab gave kas for it.",
		"Kas must reach the address in GitLab's `git_data_dirs` or `gitaly_address`; a socket (unix:) only works on the same machine. Check gitaly's auth token and the clocks.",
	},
	{
		"redis-unreachable", Dependency, "Kas cannot reach Redis. Replicas then do not find each other's agents.",
		"Start Redis, or correct `redis.server.address` (or `redis.sentinel`) and `redis.tls`.",
	},
	{
		"redis-login", Dependency, "Redis refuses user or password.",
		"Correct `redis.password_file` and `redis.username`. The file is used as it is: no newline at its end, unless the password has one.",
	},
	{
		"redis-role", Dependency, "This Redis is a replica: it does not take writes.",
		"Point `redis.server.address` at the master, or use `redis.sentinel` to have it found.",
	},
	{
		"redis-state", Dependency, "Redis answers and is not well: it loads its data, or its memory is nearly used up.",
		"Wait for it, or give it more memory. With maxmemory-policy noeviction a full Redis refuses writes.",
	},
}
