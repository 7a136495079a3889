// Package version says what this build is. Both daemons carry one version.
package version

// Version is vMAJOR.MINOR of the newest GitLab whose contracts hold, with a patch number of this project's own. The linker
// may replace it.
var Version = "v18.11.0"

// Commit is the short git commit of the build; the linker sets it.
var Commit = "unknown"

// Names of the daemons in User-Agent, Server and Via, as GitLab and its proxies know them.
const (
	KasName    = "gitlab-kas"
	AgentkName = "gitlab-agent"
)

// Kas is the product token of kas, for example "gitlab-kas/v18.11.0/0123abcd".
func Kas() string { return KasName + "/" + Version + "/" + Commit }

// Agentk is the product token of agentk.
func Agentk() string { return AgentkName + "/" + Version + "/" + Commit }
