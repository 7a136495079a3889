package standalone

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kascfg"
)

// maxEntries is how many projects, and how many groups, of one ci_access section count. GitLab ignores the rest too.
const maxEntries = 500

// candidate is an agent that a job might use, with what its configuration file says about it. An agent whose configuration
// could never be read is no candidate.
type candidate struct {
	agent    *agent
	ciAccess *agentcfg.CiAccessCF // nil: the file says nothing
}

// entry is what all three kinds of ci_access entries have in common.
type entry interface {
	GetDefaultNamespace() string
	GetAccessAs() *agentcfg.CiAccessAsCF
	GetEnvironments() []string
	GetProtectedBranchesOnly() bool
}

// grant says that a job may use an agent, and under which terms.
type grant struct {
	agent *agent
	entry entry
}

func (g grant) configuration() *gitlabapi.Configuration {
	return &gitlabapi.Configuration{
		DefaultNamespace: g.entry.GetDefaultNamespace(),
		// The entry stays in the cache of agent configurations; callers get their own copy.
		AccessAs: proto.CloneOf(g.entry.GetAccessAs()),
	}
}

// match decides which agents a job may use. The first entry found for an agent is the only one that counts, even if its
// restrictions then rule the job out: an entry for the job's project comes before the implicit access to agents registered in
// that project, so it can narrow it; a near group comes before a far one.
//
// Entries reach only as far as the root namespace of the agent's project, unless anyNamespace lifts that: otherwise whoever may
// write an agent's configuration could aim the agent at jobs of strangers.
func match(candidates []candidate, j *job, anyNamespace bool) []grant {
	var found []grant
	seen := map[int64]bool{}
	add := func(a *agent, e entry) {
		if !seen[a.id] {
			seen[a.id] = true
			found = append(found, grant{agent: a, entry: e})
		}
	}
	var inScope []candidate
	for _, c := range candidates {
		if inNamespace(c.agent, j, anyNamespace) {
			inScope = append(inScope, c)
		}
	}
	for _, c := range inScope {
		if e := findEntry(c.ciAccess.GetProjects(), j.project.path); e != nil {
			add(c.agent, e)
		}
	}
	for _, c := range candidates {
		if c.agent.project == j.project {
			add(c.agent, (*agentcfg.CiAccessProjectCF)(nil))
		}
	}
	for _, g := range j.project.groups {
		for _, c := range inScope {
			if e := findEntry(c.ciAccess.GetGroups(), g.GetPath()); e != nil {
				add(c.agent, e)
			}
		}
	}
	if anyNamespace {
		for _, c := range inScope {
			if e := c.ciAccess.GetInstance(); e != nil {
				add(c.agent, e)
			}
		}
	}
	allowed := found[:0]
	for _, g := range found {
		if permits(g.entry, j) {
			allowed = append(allowed, g)
		}
	}
	return allowed
}

func inNamespace(a *agent, j *job, anyNamespace bool) bool {
	return anyNamespace || a.project.rootNamespace() == j.project.rootNamespace()
}

// findEntry returns the first entry that names a path, nil if none does.
func findEntry[E interface {
	comparable
	entry
	GetId() string
}](entries []E, path string) entry {
	for _, e := range entries[:min(len(entries), maxEntries)] {
		if strings.EqualFold(e.GetId(), path) {
			return e
		}
	}
	return nil
}

func permits(e entry, j *job) bool {
	if e.GetProtectedBranchesOnly() && !j.file.GetRefProtected() {
		return false
	}
	return environmentAllowed(e.GetEnvironments(), j.file.GetEnvironment())
}

func environmentAllowed(patterns []string, env *kascfg.StandaloneEnvironmentCF) bool {
	if len(patterns) == 0 {
		return true
	}
	if env == nil {
		return false
	}
	for _, p := range patterns {
		if wildcardMatch(p, env.GetName()) {
			return true
		}
	}
	return false
}

// wildcardMatch tells whether the whole name fits the pattern, in which "*" stands for any characters, also none, and
// everything else for itself. Time is at most len(pattern)*len(name).
func wildcardMatch(pattern, name string) bool {
	p, n := 0, 0
	star, resume := -1, 0 // the last "*" seen, and where in name to go on after giving it one more character
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
