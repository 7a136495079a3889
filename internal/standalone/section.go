package standalone

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// section is the standalone section of the configuration file, checked and indexed. It never changes once made.
type section struct {
	file          *kascfg.StandaloneCF
	projects      map[string]*project // by lower-case path
	agents        []*agent            // in the order of the file
	agentsByToken map[tokenSum]*agent
	jobs          map[int64]*job
	jobsByToken   map[tokenSum]*job
}

type project struct {
	id     int64
	path   string
	groups []*kascfg.StandaloneGroupCF // nearest first
	public bool
}

type agent struct {
	id      int64
	name    string
	project *project
	// reads are the projects that the agent may read besides its own and public ones.
	reads map[*project]bool
}

type job struct {
	id      int64
	file    *kascfg.StandaloneJobCF
	project *project
}

func (s *section) root() string { return s.file.GetRepositoriesDir() }

// project finds a project by its path in any case. The fault is of kind NotFound.
func (s *section) project(path string) (*project, error) {
	p := s.projects[strings.ToLower(path)]
	if p == nil {
		return nil, fault.New(fault.NotFound, fault.Git, "project %q is not in section standalone of the kas configuration file", path)
	}
	return p, nil
}

// rootNamespace is the top-level group or user that a path belongs to, in lower case.
func (p *project) rootNamespace() string {
	root, _, _ := strings.Cut(p.path, "/")
	return strings.ToLower(root)
}

func (p *project) value() backend.Project { return backend.Project{ID: p.id, Path: p.path} }

func (a *agent) value() backend.Agent {
	return backend.Agent{ID: a.id, Name: a.name, Project: a.project.value()}
}

// configPath is where the agent's configuration file is in its project's repository.
func (a *agent) configPath() string { return ".gitlab/agents/" + a.name + "/config.yaml" }

func (j *job) expired(now time.Time) bool {
	at, ok := j.expiry()
	return ok && !now.Before(at)
}

func (j *job) expiry() (time.Time, bool) {
	if j.file.GetExpiresAt() == nil {
		return time.Time{}, false
	}
	return j.file.GetExpiresAt().AsTime(), true
}

// describe is the answer about the job with no agent in it yet.
func (j *job) describe() *gitlabapi.AllowedAgentsForJob {
	res := &gitlabapi.AllowedAgentsForJob{
		Job:      &gitlabapi.Job{Id: j.id},
		Pipeline: &gitlabapi.Pipeline{Id: j.file.GetPipeline()},
		Project:  &gitlabapi.Project{Id: j.project.id},
		User:     &gitlabapi.User{Id: j.file.GetUser().GetId(), Username: j.file.GetUser().GetUsername()},
	}
	for _, g := range j.project.groups {
		res.Project.Groups = append(res.Project.Groups, &gitlabapi.Group{Id: g.GetId()})
	}
	if env := j.file.GetEnvironment(); env != nil {
		res.Environment = &gitlabapi.Environment{Slug: env.GetSlug(), Tier: env.GetTier()}
	}
	return res
}

var (
	pathSegment = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*$`)
	// agentName is large when compiled; without this mode nobody needs it.
	agentName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) })
)

// checkPath accepts full paths of projects and groups. They become folder names below repositories_dir, so whatever could lead
// elsewhere, or into another project's repository, is refused.
func checkPath(path string) error {
	for segment := range strings.SplitSeq(path, "/") {
		switch {
		case !pathSegment.MatchString(segment), segment == ".", segment == "..":
			return fmt.Errorf("%q is not a full path such as group/subgroup/name", path)
		case strings.HasSuffix(strings.ToLower(segment), ".git"):
			return fmt.Errorf("%q: no part of a path may end in .git", path)
		}
	}
	return nil
}

// sectionBuilder collects every mistake, so that the user mends them in one go.
type sectionBuilder struct {
	s        *section
	groupIDs map[int64]string // lower-case path by id
	groups   map[string]int64 // id by lower-case path
	tokens   map[tokenSum]string
	mistakes []string
}

// newSection checks what field constraints cannot: names that refer to each other, and what must be unique.
func newSection(file *kascfg.StandaloneCF) (*section, error) {
	b := &sectionBuilder{
		s: &section{
			file:          file,
			projects:      map[string]*project{},
			agentsByToken: map[tokenSum]*agent{},
			jobs:          map[int64]*job{},
			jobsByToken:   map[tokenSum]*job{},
		},
		groupIDs: map[int64]string{},
		groups:   map[string]int64{},
		tokens:   map[tokenSum]string{},
	}
	if file.GetRepositoriesDir() == "" {
		b.mistake("repositories_dir", "must not be empty")
	}
	b.addProjects(file.GetProjects())
	b.addAgents(file.GetAgents())
	b.addJobs(file.GetJobs())
	if len(b.mistakes) > 0 {
		return nil, fmt.Errorf("section standalone is invalid: %s", strings.Join(b.mistakes, "; "))
	}
	return b.s, nil
}

func (b *sectionBuilder) mistake(at, format string, args ...any) {
	b.mistakes = append(b.mistakes, "standalone."+at+": "+fmt.Sprintf(format, args...))
}

func (b *sectionBuilder) addProjects(projects []*kascfg.StandaloneProjectCF) {
	ids := map[int64]bool{}
	for i, f := range projects {
		at := fmt.Sprintf("projects[%d]", i)
		err := checkPath(f.GetPath())
		if err != nil {
			b.mistake(at+".path", "%s", err)
			continue
		}
		key := strings.ToLower(f.GetPath())
		if b.s.projects[key] != nil {
			b.mistake(at+".path", "project %q appears twice", f.GetPath())
		}
		if f.GetId() <= 0 || ids[f.GetId()] {
			b.mistake(at+".id", "must be positive and unique among projects, is %d", f.GetId())
		}
		ids[f.GetId()] = true
		p := &project{id: f.GetId(), path: f.GetPath(), groups: slices.Clone(f.GetGroups()), public: f.GetVisibility() == visibilityPublic}
		b.checkGroups(at, p)
		// The deeper the path, the nearer the group.
		slices.SortStableFunc(p.groups, func(x, y *kascfg.StandaloneGroupCF) int {
			return cmp.Compare(strings.Count(y.GetPath(), "/"), strings.Count(x.GetPath(), "/"))
		})
		b.s.projects[key] = p
	}
}

func (b *sectionBuilder) checkGroups(at string, p *project) {
	seen := map[string]bool{}
	for i, g := range p.groups {
		at := fmt.Sprintf("%s.groups[%d]", at, i)
		key := strings.ToLower(g.GetPath())
		err := checkPath(g.GetPath())
		switch {
		case err != nil:
			b.mistake(at+".path", "%s", err)
			continue
		case !strings.HasPrefix(strings.ToLower(p.path), key+"/"):
			b.mistake(at+".path", "group %q is not a parent of project %q", g.GetPath(), p.path)
		case seen[key]:
			b.mistake(at+".path", "group %q appears twice", g.GetPath())
		}
		seen[key] = true
		if g.GetId() <= 0 {
			b.mistake(at+".id", "must be positive, is %d", g.GetId())
			continue
		}
		id, known := b.groups[key]
		path, taken := b.groupIDs[g.GetId()]
		if known && id != g.GetId() || taken && path != key {
			b.mistake(at+".id", "group %q and id %d are already paired otherwise", g.GetPath(), g.GetId())
			continue
		}
		b.groups[key], b.groupIDs[g.GetId()] = g.GetId(), key
	}
}

func (b *sectionBuilder) addAgents(agents []*kascfg.StandaloneAgentCF) {
	ids := map[int64]bool{}
	names := map[string]bool{}
	for i, f := range agents {
		at := fmt.Sprintf("agents[%d]", i)
		if f.GetId() <= 0 || ids[f.GetId()] {
			b.mistake(at+".id", "must be positive and unique among agents, is %d", f.GetId())
		}
		ids[f.GetId()] = true
		if !agentName().MatchString(f.GetName()) {
			b.mistake(at+".name", "%q must be lower-case letters, digits and inner dashes, at most 63", f.GetName())
		}
		if len(f.GetTokenSha256()) > 2 {
			b.mistake(at+".token_sha256", "an agent has at most two tokens, here are %d", len(f.GetTokenSha256()))
		}
		p := b.s.projects[strings.ToLower(f.GetProject())]
		if p == nil {
			b.mistake(at+".project", "project %q is not listed under projects", f.GetProject())
			continue
		}
		full := strings.ToLower(p.path) + ":" + f.GetName()
		if names[full] {
			b.mistake(at+".name", "project %q has two agents named %q", p.path, f.GetName())
		}
		names[full] = true
		a := &agent{id: f.GetId(), name: f.GetName(), project: p, reads: b.gitopsProjects(at, f)}
		b.s.agents = append(b.s.agents, a)
		for k, hash := range f.GetTokenSha256() {
			if sum, ok := b.token(fmt.Sprintf("%s.token_sha256[%d]", at, k), hash); ok {
				b.s.agentsByToken[sum] = a
			}
		}
	}
}

func (b *sectionBuilder) gitopsProjects(at string, f *kascfg.StandaloneAgentCF) map[*project]bool {
	reads := map[*project]bool{}
	for i, path := range f.GetGitopsProjects() {
		p := b.s.projects[strings.ToLower(path)]
		if p == nil {
			b.mistake(fmt.Sprintf("%s.gitops_projects[%d]", at, i), "project %q is not listed under projects", path)
			continue
		}
		reads[p] = true
	}
	return reads
}

func (b *sectionBuilder) addJobs(jobs []*kascfg.StandaloneJobCF) {
	for i, f := range jobs {
		at := fmt.Sprintf("jobs[%d]", i)
		if f.GetId() <= 0 || b.s.jobs[f.GetId()] != nil {
			b.mistake(at+".id", "must be positive and unique among jobs, is %d", f.GetId())
		}
		if f.GetUser().GetUsername() == "" {
			b.mistake(at+".user.username", "must not be empty")
		}
		if f.GetExpiresAt() != nil && !f.GetExpiresAt().IsValid() {
			b.mistake(at+".expires_at", "is not a time")
		}
		p := b.s.projects[strings.ToLower(f.GetProject())]
		if p == nil {
			b.mistake(at+".project", "project %q is not listed under projects", f.GetProject())
			continue
		}
		j := &job{id: f.GetId(), file: f, project: p}
		b.s.jobs[j.id] = j
		if sum, ok := b.token(at+".token_sha256", f.GetTokenSha256()); ok {
			b.s.jobsByToken[sum] = j
		}
	}
}

// token checks one hash. No token may stand for two things, whatever they are.
func (b *sectionBuilder) token(at, hash string) (tokenSum, bool) {
	sum, ok := parseSum(hash)
	if !ok {
		b.mistake(at, "must be the SHA-256 of the token in 64 lower-case hexadecimal digits")
		return sum, false
	}
	if other, taken := b.tokens[sum]; taken {
		b.mistake(at, "is the same token as standalone.%s", other)
		return sum, false
	}
	if sum == sumToken("") {
		b.mistake(at, "is the hash of an empty token")
		return sum, false
	}
	b.tokens[sum] = at
	return sum, true
}
