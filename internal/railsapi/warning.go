package railsapi

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

// Types of warnings.
const (
	warnOutdated      = "outdated"
	warnMismatch      = "mismatch"
	warnInstallations = "installations"
)

// withWarnings adds what is wrong with each agent to its connections, which are sorted by agent. The given messages are shared,
// so they are not changed.
func withWarnings(infos []*agenttracker.ConnectedAgentInfo, kas string) []*agenttracker.ConnectedAgentInfo {
	out := make([]*agenttracker.ConnectedAgentInfo, 0, len(infos))
	for len(infos) > 0 {
		n := 1
		for n < len(infos) && infos[n].AgentId == infos[0].AgentId {
			n++
		}
		pods := infos[:n]
		infos = infos[n:]
		ofAgent := agentWarnings(pods)
		for _, pod := range pods {
			warnings := slices.Clone(ofAgent)
			if text := outdated(pod.GetAgentMeta().GetVersion(), kas); text != "" {
				warnings = append(warnings, warning(warnOutdated, text))
			}
			out = append(out, &agenttracker.ConnectedAgentInfo{
				AgentMeta: pod.AgentMeta, ConnectedAt: pod.ConnectedAt, ConnectionId: pod.ConnectionId,
				AgentId: pod.AgentId, ProjectId: pod.ProjectId, Warnings: warnings,
			})
		}
	}
	return out
}

// agentWarnings are those about all pods of one agent together.
func agentWarnings(pods []*agenttracker.ConnectedAgentInfo) []*agenttracker.AgentWarning {
	var warnings []*agenttracker.AgentWarning
	versions := map[string]struct{}{}
	for _, pod := range pods {
		versions[pod.GetAgentMeta().GetVersion()] = struct{}{}
	}
	if len(versions) > 1 {
		warnings = append(warnings, warning(warnMismatch, fmt.Sprintf(
			"The pods of this agent run different versions; the lowest is %s", slices.Min(slices.Collect(maps.Keys(versions))))))
	}
	if where := Installations(pods); len(where) > 1 {
		warnings = append(warnings, warning(warnInstallations, fmt.Sprintf(
			"This agent is installed more than once (%s): requests go to any of them. Register an agent of its own for each",
			strings.Join(where, "; "))))
	}
	return warnings
}

func warning(kind, text string) *agenttracker.AgentWarning {
	return &agenttracker.AgentWarning{Warning: &agenttracker.AgentWarning_Version{
		Version: &agenttracker.AgentWarningVersion{Type: kind, Message: text},
	}}
}

// number finds MAJOR.MINOR.PATCH in a version, and whether a pre-release follows.
var number = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})\.\d{1,6}(-)?`)

type release struct {
	major, minor int
	pre          bool
}

func parseRelease(version string) (release, bool) {
	m := number.FindStringSubmatch(version)
	if m == nil {
		return release{}, false
	}
	major, _ := strconv.Atoi(m[1]) // digits only
	minor, _ := strconv.Atoi(m[2])
	return release{major: major, minor: minor, pre: m[3] != ""}, true
}

// outdated says that an agent is too old for kas: supported is one minor release behind, two while kas is a pre-release. An agent
// of another major release is out of support either way. Versions that cannot be read are not judged.
func outdated(agent, kas string) string {
	a, known := parseRelease(agent)
	k, sane := parseRelease(kas)
	if !known || !sane {
		return ""
	}
	behind := 1
	if k.pre {
		behind = 2
	}
	if a.major == k.major && a.minor+behind >= k.minor {
		return ""
	}
	return fmt.Sprintf("The agent's version %s does not match that of this GitLab agent server, %s", agent, kas)
}
