package gitops

import (
	"os"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// Every test here has an object that must outlive what happens to git.

func TestGit_ForcePush(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1")})
	first := u.git("rev-parse", "HEAD")
	u.done(first)
	u.sync(files{"a.yaml": configMap("a", "2"), "b.yaml": configMap("b", "1")})
	u.git("reset", "--quiet", "--hard", first)
	u.git("commit", "--quiet", "--allow-empty", "--amend", "--message", "Another history")
	u.git("push", "--quiet", "--force", "origin", "HEAD:main")
	u.done(u.git("rev-parse", "HEAD"))
	if u.value("a") != "1" || u.object(configMaps, "b") != nil {
		t.Errorf("a is %q", u.value("a"))
	}
}

func TestGit_Branch(t *testing.T) {
	t.Parallel()
	u := shared.newUnit(t)
	u.push(files{"a.yaml": configMap("a", "main")})
	u.git("checkout", "--quiet", "-b", "live")
	onBranch := func(content files) string {
		u.push(content) // moves main, which is of no interest
		u.git("push", "--quiet", "--force", "origin", "HEAD:live")
		return u.git("rev-parse", "HEAD")
	}
	commit := onBranch(files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	u.configure("ref: {branch: live}")
	u.done(commit)
	// Only the branch moves. Alone, as no other test does anything that kas hears of, this shows that it is watched.
	u.git("commit", "--quiet", "--allow-empty", "--message", "Nothing")
	u.git("push", "--quiet", "origin", "HEAD:live")
	u.done(u.git("rev-parse", "HEAD"))

	u.git("push", "--quiet", "origin", ":live")
	u.logs("Synchronization failed", "live")
	if u.value("a") != "1" || u.value("b") != "1" {
		t.Error("the branch was deleted, and so were objects")
	}
	u.done(onBranch(files{"a.yaml": configMap("a", "2"), "b.yaml": ""}))
	if u.value("a") != "2" || u.object(configMaps, "b") != nil {
		t.Error("the new branch is not followed")
	}
}

func TestGit_RepositoryDeleted(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1")})
	u.done(u.git("rev-parse", "HEAD"))
	dir := shared.RepositoryDir(u.project)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	// Something else makes the agent and kas look at everything anew.
	other := shared.follow(t, "", files{"o.yaml": configMap("o", "1")})
	other.done(other.git("rev-parse", "HEAD"))
	u.logs("Synchronization failed")
	if u.value("a") != "1" {
		t.Error("the repository was deleted, and so was an object")
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	u.sync(files{"a.yaml": configMap("a", "2")})
}

func TestGit_EmptyRepository(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", nil)
	other := shared.follow(t, "", files{"o.yaml": configMap("o", "1")})
	other.done(other.git("rev-parse", "HEAD"))
	if d := u.document(); d.Commit != "" {
		t.Errorf("an empty repository was synchronised: %+v", d)
	}
	u.sync(files{"a.yaml": configMap("a", "1")})
	if u.value("a") != "1" {
		t.Error("the first commit was not synchronised")
	}
}

func TestGit_InvalidFile(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	u.done(u.git("rev-parse", "HEAD"))
	commit := u.push(files{"a.yaml": "kind: ConfigMap\n  v: [\n", "b.yaml": "", "c.yaml": configMap("c", "1")})
	if d := u.fails(commit, "a.yaml:"); !d.UserError {
		t.Errorf("%+v", d)
	}
	if u.value("a") != "1" || u.value("b") != "1" || u.object(configMaps, "c") != nil {
		t.Error("a commit with an invalid file was applied in part")
	}
	u.sync(files{"a.yaml": configMap("a", "2")})
	if u.value("a") != "2" || u.object(configMaps, "b") != nil || u.value("c") != "1" {
		t.Error("the corrected commit was not applied")
	}
}

// A standalone kas has no redirects: the old path is refused, and the new one goes on where the old one was, as the id is the same.
func TestGit_ProjectRenamed(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1")})
	u.done(u.git("rev-parse", "HEAD"))
	uid := u.object(configMaps, "a").GetUID()
	old, renamed := u.project, u.project+"-renamed"
	if err := os.Rename(shared.RepositoryDir(old), shared.RepositoryDir(renamed)); err != nil {
		t.Fatal(err)
	}
	if err := shared.Update(func(c *line.Config) {
		for i := range c.Projects {
			if c.Projects[i].Path == old {
				c.Projects[i].Path = renamed
			}
		}
		own := c.Agents[0].GitOpsProjects
		for i := range own {
			if own[i] == old {
				own[i] = renamed
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	u.logs("Synchronization failed", "not found")
	if u.value("a") != "1" {
		t.Error("the project was renamed, and an object deleted")
	}
	u.forget()
	u.project = renamed
	if err := os.Rename(shared.CloneDir(old), shared.CloneDir(renamed)); err != nil {
		t.Fatal(err)
	}
	u.git("remote", "set-url", "origin", shared.RepositoryDir(renamed))
	u.configure("")
	u.sync(files{"b.yaml": configMap("b", "1")})
	if o := u.object(configMaps, "a"); o == nil || o.GetUID() != uid {
		t.Error("the object did not outlive the rename")
	}
}

// A project that the agent may not read is told apart from one that is not there by nobody, and nothing of it arrives.
func TestCVE_2020_13358(t *testing.T) {
	t.Parallel()
	if _, err := shared.Push(t.Context(), foreign, map[string]string{"s.yaml": configMap("stolen", "1")}); err != nil {
		t.Fatal(err)
	}
	u := shared.newUnit(t)
	for _, project := range []string{foreign, "other/nothing"} {
		u.project = project
		u.configure("")
		u.logs("Synchronization failed", "not found")
		u.forget()
	}
	if u.object(configMaps, "stolen") != nil {
		t.Error("objects of a foreign private project are in the cluster")
	}
	if d := u.document(); d.Commit != "" {
		t.Errorf("%+v", d)
	}
}
