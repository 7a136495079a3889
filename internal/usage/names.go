package usage

// Access is the way in which a Kubernetes client proved who it is.
type Access string

// Ways of access, as GitLab names them.
const (
	CI   Access = "ci"
	User Access = "user"
	PAT  Access = "pat"
)

// Names of counters, sets and events. GitLab refuses a whole report with a name that it does not know.
const (
	allRequests       = "k8s_api_proxy_request"
	fluxNotifications = "flux_git_push_notifications_total"
	fluxProjects      = "flux_git_push_notified_unique_projects"
	gitopsSyncs       = "gitops_sync"                 // up to 16.x
	tunnelUsers       = "agent_users_using_ci_tunnel" // up to 16.x; users of all ways of access
	registerEvent     = "register_agent_at_kas"
)

// oldNames are refused from 17.0 on.
var oldNames = []string{gitopsSyncs, tunnelUsers}

// names are those of each way of access. The set of users is an event of the same name, too.
var names = map[Access]struct{ requests, users, agents string }{
	CI: {
		"k8s_api_proxy_requests_via_ci_access",
		"k8s_api_proxy_requests_unique_users_via_ci_access",
		"k8s_api_proxy_requests_unique_agents_via_ci_access",
	},
	User: {
		"k8s_api_proxy_requests_via_user_access",
		"k8s_api_proxy_requests_unique_users_via_user_access",
		"k8s_api_proxy_requests_unique_agents_via_user_access",
	},
	PAT: {
		"k8s_api_proxy_requests_via_pat_access",
		"k8s_api_proxy_requests_unique_users_via_pat_access",
		"k8s_api_proxy_requests_unique_agents_via_pat_access",
	},
}
