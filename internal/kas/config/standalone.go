package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/rules"
)

// maxTokens is how many tokens of an agent may be active: the old and the new one while it is being changed.
const maxTokens = 2

var (
	tokenHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// hashOfNothing is what a tool prints that was fed an empty token.
	hashOfNothing = hex.EncodeToString(func() []byte { h := sha256.Sum256(nil); return h[:] }())
)

// checkStandalone finds names in the standalone section that do not fit together: ids given twice, projects that are not
// there, tokens that stand for two things.
func checkStandalone(cf *kascfg.StandaloneCF) []rules.Violation {
	c := &standaloneCheck{
		projects: unique[string]{}, projectIDs: unique[int64]{}, groups: map[string]int64{}, groupIDs: map[int64]string{},
		agentIDs: unique[int64]{}, agentNames: unique[[2]string]{}, jobIDs: unique[int64]{}, tokens: unique[string]{},
	}
	for i, p := range cf.GetProjects() {
		c.project(p, item("standalone.projects", i))
	}
	for i, a := range cf.GetAgents() {
		c.agent(a, item("standalone.agents", i))
	}
	for i, j := range cf.GetJobs() {
		c.job(j, item("standalone.jobs", i))
	}
	return c.found
}

// unique remembers where a value was seen first.
type unique[K comparable] map[K]string

type standaloneCheck struct {
	found      []rules.Violation
	projects   unique[string]
	projectIDs unique[int64]
	groups     map[string]int64
	groupIDs   map[int64]string
	agentIDs   unique[int64]
	agentNames unique[[2]string]
	jobIDs     unique[int64]
	tokens     unique[string]
}

func (c *standaloneCheck) add(path, format string, args ...any) {
	c.found = append(c.found, rules.Violation{Path: path, Msg: fmt.Sprintf(format, args...)})
}

// once complains if a value was seen before. Values missing altogether are complained about elsewhere.
func once[K comparable](c *standaloneCheck, seen unique[K], value K, path string) {
	var zero K
	if value == zero {
		return
	}
	if first, ok := seen[value]; ok {
		c.add(path, "is the same as %s", first)
		return
	}
	seen[value] = path
}

func (c *standaloneCheck) project(p *kascfg.StandaloneProjectCF, at string) {
	once(c, c.projectIDs, p.GetId(), at+".id")
	once(c, c.projects, p.GetPath(), at+".path")
	if p.GetPath() != "" && !wellFormed(p.GetPath()) {
		c.add(at+".path", "must be a full project path such as group/project")
	}
	for i, g := range p.GetGroups() {
		c.group(g, p, item(at+".groups", i))
	}
}

// group checks that a group is around its project, and that its id and path go together wherever it is named.
func (c *standaloneCheck) group(g *kascfg.StandaloneGroupCF, p *kascfg.StandaloneProjectCF, at string) {
	if g.GetPath() == "" || g.GetId() == 0 {
		return
	}
	if !strings.HasPrefix(p.GetPath(), g.GetPath()+"/") {
		c.add(at+".path", "must be a parent of the project's path")
	}
	id, known := c.groups[g.GetPath()]
	other, taken := c.groupIDs[g.GetId()]
	switch {
	case known && id != g.GetId():
		c.add(at+".id", "the group of this path has the id %d elsewhere", id)
	case taken && other != g.GetPath():
		c.add(at+".id", "is the id of the group %s already", other)
	default:
		c.groups[g.GetPath()], c.groupIDs[g.GetId()] = g.GetId(), g.GetPath()
	}
}

func (c *standaloneCheck) agent(a *kascfg.StandaloneAgentCF, at string) {
	once(c, c.agentIDs, a.GetId(), at+".id")
	if a.GetName() != "" {
		once(c, c.agentNames, [2]string{a.GetProject(), a.GetName()}, at+".name")
	}
	c.knownProject(a.GetProject(), at+".project")
	for i, p := range a.GetGitopsProjects() {
		c.knownProject(p, item(at+".gitops_projects", i))
	}
	if len(a.GetTokenSha256()) > maxTokens {
		c.add(at+".token_sha256", "must have at most %d items", maxTokens)
	}
	for i, t := range a.GetTokenSha256() {
		c.token(t, item(at+".token_sha256", i))
	}
}

func (c *standaloneCheck) job(j *kascfg.StandaloneJobCF, at string) {
	once(c, c.jobIDs, j.GetId(), at+".id")
	c.knownProject(j.GetProject(), at+".project")
	// Its form is checked by the field's own constraint.
	if tokenHash.MatchString(j.GetTokenSha256()) {
		c.token(j.GetTokenSha256(), at+".token_sha256")
	}
}

func (c *standaloneCheck) knownProject(project, at string) {
	if _, ok := c.projects[project]; !ok && project != "" {
		c.add(at, "is none of standalone.projects")
	}
}

func (c *standaloneCheck) token(hash, at string) {
	switch {
	case len(hash) < sha256.Size*2:
		// Complained about by the field's own constraint.
	case !tokenHash.MatchString(hash):
		c.add(at, `must be a lower-case hexadecimal SHA-256, as "kas standalone hash-token" prints it`)
	case hash == hashOfNothing:
		c.add(at, "is the hash of an empty token")
	default:
		once(c, c.tokens, hash, at)
	}
}

// wellFormed keeps paths inside the folder of repositories.
func wellFormed(p string) bool {
	return p == path.Clean(p) && p != "." && p != ".." && !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "../") &&
		!strings.ContainsAny(p, "\\\x00")
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
