package standalone

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// bulkRepo is a repository with a bit of everything, packed and loose.
func bulkRepo(t *testing.T) (*gitRepo, *Backend) {
	t.Helper()
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	r.write("a.yaml", "a")
	r.write("dir/b.yaml", "b")
	r.write("dir/sub/c.yaml", "c")
	runGit(t, r.work, "add", "--all")
	runGit(t, r.work, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("12", 20)+",module")
	runGit(t, r.work, "commit", "--quiet", "--message", "first")
	runGit(t, r.work, "push", "--quiet", "origin", "HEAD:main")
	runGit(t, r.bare, "repack", "-a", "-d", "--quiet")
	return r, newTestBackend(t, baseSection(root), nil)
}

func listAll(t *testing.T, b *Backend, commit, dir string, deep bool) ([]string, error) {
	t.Helper()
	var found []string
	err := b.List(t.Context(), agentsProject, commit, dir, deep, func(e backend.Entry) error {
		kind := " other"
		if e.File {
			kind = " file"
		}
		found = append(found, e.Path+kind)
		return nil
	})
	return found, err
}

func TestList(t *testing.T) {
	r, b := bulkRepo(t)
	commit := runGit(t, r.work, "rev-parse", "HEAD")
	for _, tt := range []struct {
		dir  string
		deep bool
		want []string
	}{
		{"", false, []string{"a.yaml file", "dir other", "module other"}},
		{"", true, []string{"a.yaml file", "dir other", "dir/b.yaml file", "dir/sub other", "dir/sub/c.yaml file", "module other"}},
		{"dir", false, []string{"dir/b.yaml file", "dir/sub other"}},
		{"dir/sub", true, []string{"dir/sub/c.yaml file"}},
	} {
		got, err := listAll(t, b, commit, tt.dir, tt.deep)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q deep %t (-want +got)\n%s", tt.dir, tt.deep, diff)
		}
	}
	for _, dir := range []string{"none", "a.yaml", "module", "dir/none", "..", "dir/.."} {
		_, err := listAll(t, b, commit, dir, true)
		wantFault(t, err, fault.NotFound, dir)
	}
	_, err := listAll(t, b, strings.Repeat("12", 20), "", true)
	wantFault(t, err, fault.Unavailable)
	_, err = listAll(t, b, "main", "", true)
	wantFault(t, err, fault.InvalidArgument)

	enough, seen := errors.New("enough"), 0
	err = b.List(t.Context(), agentsProject, commit, "", true, func(backend.Entry) error { seen++; return enough })
	if !errors.Is(err, enough) || seen != 1 {
		t.Errorf("%d seen, %v", seen, err)
	}
	remove(t, r.bare)
	_, err = listAll(t, b, commit, "", true)
	wantFault(t, err, fault.Unavailable, "infra/agents")
}

func TestList_HostileTrees(t *testing.T) {
	r, b := bulkRepo(t)
	blob := runGit(t, r.bare, "rev-parse", "main:a.yaml")
	tree := func(mode, kind, id, name string) string {
		path := filepath.Join(t.TempDir(), "tree")
		overwrite(t, path, mode+" "+kind+" "+id+"\t"+name+"\x00")
		return runGit(t, r.bare, "-c", "alias.x=!git mktree -z --missing <"+path, "x")
	}
	commitOf := func(tree string) string { return runGit(t, r.bare, "commit-tree", "-m", "x", tree) }
	// Each level has a name of 250 bytes.
	deep := tree("100644", "blob", blob, "f")
	for range 20 {
		deep = tree("040000", "tree", deep, strings.Repeat("d", 250))
	}
	_, err := listAll(t, b, commitOf(deep), "", true)
	wantFault(t, err, fault.FailedPrecondition, "more than 4096 bytes")
	// Every level doubles what is below.
	wide := tree("100644", "blob", blob, "f")
	for range 30 {
		path := filepath.Join(t.TempDir(), "tree")
		overwrite(t, path, "040000 tree "+wide+"\ta\x00040000 tree "+wide+"\tb\x00")
		wide = runGit(t, r.bare, "-c", "alias.x=!git mktree -z --missing <"+path, "x")
	}
	_, err = listAll(t, b, commitOf(wide), "", true)
	wantFault(t, err, fault.FailedPrecondition, "more than 100000 entries")
}

func TestBlobs(t *testing.T) {
	r, b := bulkRepo(t)
	commit := runGit(t, r.work, "rev-parse", "HEAD")
	read := func(limit int64, entries ...backend.Entry) (map[string]string, error) {
		got := map[string]string{}
		return got, b.Blobs(t.Context(), agentsProject, commit, entries, limit, func(e backend.Entry, data []byte) error {
			if e.ID != runGit(t, r.bare, "rev-parse", commit+":"+e.Path) || !e.File {
				t.Errorf("given: %+v", e)
			}
			got[e.Path] += string(data)
			return nil
		})
	}
	id := runGit(t, r.bare, "rev-parse", commit+":dir/b.yaml")
	got, err := read(1, backend.Entry{Path: "dir/b.yaml", ID: id, File: true}, backend.Entry{Path: "a.yaml"})
	if diff := cmp.Diff(map[string]string{"a.yaml": "a", "dir/b.yaml": "b"}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	_, err = read(0, backend.Entry{Path: "a.yaml"})
	wantFault(t, err, fault.FailedPrecondition, "a.yaml is too big: 1 bytes, at most 0 are allowed")
	_, err = read(1, backend.Entry{Path: "none"})
	wantFault(t, err, fault.NotFound, "none")
	_, err = read(1, backend.Entry{Path: "module"})
	wantFault(t, err, fault.FailedPrecondition, "submodule")
	_, err = read(1, backend.Entry{Path: "a.yaml", ID: strings.Repeat("12", 20)})
	wantFault(t, err, fault.Unavailable, "a.yaml")
	enough := errors.New("enough")
	err = b.Blobs(t.Context(), agentsProject, commit, []backend.Entry{{Path: "a.yaml"}}, 1, func(backend.Entry, []byte) error { return enough })
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	remove(t, r.bare)
	_, err = read(1, backend.Entry{Path: "a.yaml"})
	wantFault(t, err, fault.Unavailable)
}

func TestResolve(t *testing.T) {
	r, b := bulkRepo(t)
	first := runGit(t, r.work, "rev-parse", "HEAD")
	runGit(t, r.bare, "tag", "--annotate", "--message", "v1", "v1", first)
	runGit(t, r.bare, "tag", "--annotate", "--message", "v2", "v2", "v1")
	runGit(t, r.bare, "tag", "tree", "main^{tree}")
	runGit(t, r.bare, "branch", "feature/x", first)
	second := r.push()
	for _, packed := range []bool{false, true} {
		if packed {
			runGit(t, r.bare, "pack-refs", "--all")
		}
		for ref, want := range map[backend.Ref]string{
			{}: second, {Branch: "main"}: second, {Branch: "feature/x"}: first, {Tag: "v1"}: first, {Tag: "v2"}: first, {Commit: first}: first,
		} {
			if got, err := b.Resolve(t.Context(), agentsProject, ref); got != want || err != nil {
				t.Errorf("%s: %q, %v; want %q", ref, got, err, want)
			}
		}
		for _, ref := range []backend.Ref{
			{Branch: "v1"},
			{Tag: "main"},
			{Branch: "../../HEAD"},
			{Branch: "feature"},
			{Tag: "tree"},
			{Commit: "main"},
			{Commit: first[:12]},
			{Commit: strings.Repeat("12", 20)},
			{Commit: runGit(t, r.bare, "rev-parse", "main:a.yaml")},
		} {
			got, err := b.Resolve(t.Context(), agentsProject, ref)
			wantFault(t, err, fault.NotFound, "infra/agents")
			if got != "" {
				t.Errorf("%s: %q", ref, got)
			}
		}
	}
	_, err := b.Resolve(t.Context(), backend.Project{Path: "infra/none"}, backend.Ref{Branch: "main"})
	wantFault(t, err, fault.NotFound)
}

func TestProject(t *testing.T) {
	const other = "glagent-canary-other-token"
	b := newTestBackend(t, `
repositories_dir: /r
projects:
- {id: 1, path: infra/agents}
- {id: 2, path: infra/public, visibility: public}
- {id: 3, path: infra/internal, visibility: internal}
- {id: 4, path: infra/private, visibility: private}
- {id: 5, path: other/agents}
agents:
- {id: 7, name: edge, project: infra/agents, token_sha256: [`+HashToken(agentToken)+`], gitops_projects: [Infra/Private]}
- {id: 8, name: edge, project: other/agents, token_sha256: [`+HashToken(other)+`]}
`, nil)
	for token, want := range map[string][]string{
		agentToken: {"infra/agents", "infra/private", "infra/public"},
		other:      {"infra/public", "other/agents"},
		"made-up":  nil,
	} {
		agent, _ := b.AgentByToken(t.Context(), token)
		var got []string
		for _, id := range []string{"infra/agents", "infra/internal", "infra/private", "infra/public", "other/agents", "none", "", "1", "infra", "infra/agents.git", "./infra/agents"} {
			p, err := b.Project(t.Context(), token, agent, id)
			if err == nil && p.Path == id && p.ID > 0 {
				got = append(got, p.Path)
				continue
			}
			wantFault(t, err, fault.NotFound)
			if err.Error() != "project not found" || p != (backend.Project{}) {
				t.Errorf("%s: %v, %v", id, p, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	// The token decides, whoever is said to have it.
	_, err := b.Project(t.Context(), other, backend.Agent{ID: 7}, "infra/agents")
	wantFault(t, err, fault.NotFound)
}

func TestSection_GitopsProjects(t *testing.T) {
	_, err := newSection(parseSection(t, `
repositories_dir: /r
projects: [{id: 1, path: infra/agents}]
agents: [{id: 7, name: edge, project: infra/agents, gitops_projects: [infra/agents, infra/none]}]
`))
	if err == nil || !strings.Contains(err.Error(), `standalone.agents[0].gitops_projects[1]: project "infra/none" is not listed under projects`) {
		t.Error(err)
	}
}
