package server

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

func branch(name string) *gitops.GitRefCF {
	return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Branch{Branch: name}}
}

func tag(name string) *gitops.GitRefCF {
	return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Tag{Tag: name}}
}

func commitRef(id string) *gitops.GitRefCF {
	return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Commit{Commit: id}}
}

// at is a request with a ref, by an agent that has a commit already.
func at(req *gitops.ObjectsToSynchronizeRequest, ref *gitops.GitRefCF, has string) *gitops.ObjectsToSynchronizeRequest {
	req.Ref, req.CommitId = ref, has
	return req
}

func TestSync_CommitsAndPushes(t *testing.T) {
	backends(t, func(w *world) {
		// An empty repository is nothing to synchronise with, and no error.
		empty := w.open(ownToken, globs("**/*.yaml"))
		first := w.commit("infra/agents", "main", add("a.yaml", "a: 1"), add("dir/b.yaml", strings.Repeat("b", 900)), add("README.md", "x"), add("empty.yaml", ""))
		empty.want(first, "a.yaml", "a: 1", "dir/b.yaml", strings.Repeat("b", 900), "empty.yaml", "")

		waiting := w.open(ownToken, at(globs("**/*.yaml"), nil, first))
		pushed := time.Now()
		second := w.commit("infra/agents", "main", add("a.yaml", "a: 2"), "D empty.yaml\n")
		waiting.want(second, "a.yaml", "a: 2", "dir/b.yaml", strings.Repeat("b", 900))
		if took := time.Since(pushed); took > 10*time.Second {
			w.Errorf("a push takes %s to arrive", took)
		}
		if w.syncs() != 2 {
			w.Errorf("%d syncs counted", w.syncs())
		}
		// An older commit that the agent has is no reason to wait.
		w.want(at(globs("*.yaml"), nil, first), second, "a.yaml", "a: 2")

		// Forced back.
		waiting = w.open(ownToken, at(globs("*.yaml"), nil, second))
		w.git("infra/agents", "", "update-ref", "refs/heads/main", first)
		w.pushed("infra/agents")
		waiting.want(first, "a.yaml", "a: 1", "empty.yaml", "")
		for _, text := range []string{"GitOps: new commit", "GitOps: fetched files"} {
			if w.logs.FilterMessage(text).FilterFieldKey("commit_id").Len() != 4 {
				w.Errorf("log line %q: %v", text, w.logs.FilterMessage(text).All())
			}
		}
		fields := w.logs.FilterMessage("GitOps: fetched files").All()[0].ContextMap()
		if fields["files_visited"] != int64(5) || fields["files_sent"] != int64(3) || fields["agent_id"] != int64(7) || fields["project_id"] != "infra/agents" {
			w.Errorf("fields %v", fields)
		}
	})
}

func TestSync_Refs(t *testing.T) {
	backends(t, func(w *world) {
		first := w.commit("infra/agents", "main", add("a.yaml", "1"))
		w.git("infra/agents", "", "-c", "user.name=t", "-c", "user.email=t@corp.test", "tag", "--annotate", "--message", "v1", "v1", first)
		w.git("infra/agents", "", "tag", "light", first)
		second := w.commit("infra/agents", "feature/x", add("a.yaml", "2"))
		third := w.commit("infra/agents", "main", add("a.yaml", "3"))
		for _, tt := range []struct {
			ref          *gitops.GitRefCF
			commit, text string
		}{
			{nil, third, "3"},
			{branch("main"), third, "3"},
			{branch("feature/x"), second, "2"},
			{tag("v1"), first, "1"},
			{tag("light"), first, "1"},
			{commitRef(second), second, "2"},
		} {
			w.want(at(globs("*.yaml"), tt.ref, ""), tt.commit, "a.yaml", tt.text)
		}
		for text, ref := range map[string]*gitops.GitRefCF{
			"branch none": branch("none"), "tag none": tag("none"), "tag main": tag("main"), "branch v1": branch("v1"),
			"branch refs/heads/main": branch("refs/heads/main"), "branch ../../config": branch("../../config"), "branch main^{}": branch("main^{}"),
			"commit " + strings.Repeat("12", 20): commitRef(strings.Repeat("12", 20)), `commit "main"`: commitRef("main"), `"` + first[:12] + `"`: commitRef(first[:12]),
		} {
			w.refused(at(globs("*.yaml"), ref, ""), codes.NotFound, "GitOps: repository poll failed: ", text)
		}
		// A moved tag is a new commit; a deleted branch an error; another branch's push none of its business.
		waiting := w.open(ownToken, at(globs("*.yaml"), tag("light"), first))
		w.git("infra/agents", "", "tag", "--force", "light", second)
		w.pushed("infra/agents")
		waiting.want(second, "a.yaml", "2")
		waiting = w.open(ownToken, at(globs("*.yaml"), branch("feature/x"), second))
		w.git("infra/agents", "", "branch", "-D", "feature/x")
		w.pushed("infra/agents")
		waiting.refused(codes.NotFound, "GitOps: repository poll failed: ", "branch feature/x")
	}, func(c *Config) { c.PollPeriod = 100 * time.Millisecond }) // the standalone backend tells of default branches only
}

func TestSync_CommitNeverPolls(t *testing.T) {
	backends(t, func(w *world) {
		first := w.commit("infra/agents", "main", add("a.yaml", "1"))
		waiting := w.open(ownToken, at(globs("*.yaml"), commitRef(first), first))
		// Whatever happens in the repository, the answer would be the same. Its end is that of the stream.
		w.commit("infra/agents", "main", add("a.yaml", "2"))
		other := w.open(ownToken, at(globs("*.yaml"), nil, first))
		if _, err := other.batch(); err != nil {
			w.Fatal(err)
		}
		waiting.cancel()
		waiting.refused(codes.Canceled)
	}, func(c *Config) { c.PollPeriod = time.Millisecond })
}

func TestSync_Globs(t *testing.T) {
	backends(t, func(w *world) {
		commit := w.commit("infra/agents", "main",
			add("a.yaml", "a"), add("b.yml", "b"), add("c.json", "c"), add("d.txt", "d"), add(".hidden.yaml", "h"), add(".dir/e.yaml", "e"),
			add("x/f.yaml", "f"), add("x/y/g.yaml", "g"), add("x/.z/h.yaml", "h"), add("sp ace/ü.yaml", "u"),
			put("100755", "x/run.yaml", "r"), put("120000", "x/link.yaml", "f.yaml"), put("120000", "x/loop", "../x"),
			"M 160000 "+strings.Repeat("12", 20)+" x/sub.yaml\n")
		for _, tt := range []struct {
			globs []string
			files []string
		}{
			{[]string{"**/*.{yaml,yml,json}"}, []string{".hidden.yaml", "h", "a.yaml", "a", "b.yml", "b", "c.json", "c", "sp ace/ü.yaml", "u", "x/f.yaml", "f", "x/run.yaml", "r", "x/y/g.yaml", "g"}},
			{[]string{"/*.yaml"}, []string{".hidden.yaml", "h", "a.yaml", "a"}},
			{[]string{"x/*.yaml", "b.yml"}, []string{"x/f.yaml", "f", "x/run.yaml", "r", "b.yml", "b"}},
			{[]string{"x/**"}, []string{"x/f.yaml", "f", "x/run.yaml", "r", "x/y/g.yaml", "g"}},
			{[]string{"x/[a-f].yaml"}, []string{"x/f.yaml", "f"}},
			{[]string{"x/?.yaml", "x/y/?.yaml"}, []string{"x/f.yaml", "f", "x/y/g.yaml", "g"}},
			{[]string{"*/y/*.yaml"}, []string{"x/y/g.yaml", "g"}},
			{[]string{"nothing*"}, nil},
		} {
			w.want(globs(tt.globs...), commit, tt.files...)
		}
		// Files by name may be in hidden folders, are not globs, and are sent once.
		req := byName("/.dir/e.yaml", "x/f.yaml", "x/f.yaml")
		req.Paths = append(req.Paths, globs("x/*.yaml").Paths...)
		w.want(req, commit, ".dir/e.yaml", "e", "x/f.yaml", "f", "x/run.yaml", "r")
	})
}

func TestSync_UserErrors(t *testing.T) {
	backends(t, func(w *world) {
		w.commit("infra/agents", "main", add("a.yaml", "a"), add("x/f.yaml", "f"), put("120000", "link.yaml", "a.yaml"), put("120000", "loop", "loop"),
			"M 160000 "+strings.Repeat("12", 20)+" sub\n", add("big.txt", strings.Repeat("x", 1001)), add("fits.txt", strings.Repeat("x", 1000)))
		const failed = "GitOps: failed to get objects to synchronize: "
		for name, tt := range map[string]struct {
			req   *gitops.ObjectsToSynchronizeRequest
			code  codes.Code
			texts []string
		}{
			"glob":              {globs("a[b"), codes.FailedPrecondition, []string{failed, `"a[b" is not a glob`}},
			"glob leaves":       {globs("../*.yaml"), codes.FailedPrecondition, []string{failed, ".."}},
			"paths":             {globs("1", "2", "3", "4", "5", "6"), codes.InvalidArgument, []string{"maximum number of manifest paths is 5, got 6"}},
			"folder":            {globs("none/*.yaml"), codes.FailedPrecondition, []string{failed, "none"}},
			"folder is a file":  {globs("a.yaml/*"), codes.FailedPrecondition, []string{failed, "a.yaml"}},
			"twice":             {globs("*.yaml", "a*"), codes.FailedPrecondition, []string{failed, `"a.yaml"`, "visited more than once"}},
			"file is too big":   {globs("*.txt"), codes.FailedPrecondition, []string{failed, "big.txt is too big: 1001 bytes, at most 1000 are allowed"}},
			"by name too big":   {byName("big.txt"), codes.FailedPrecondition, []string{failed, "big.txt is too big: 1001 bytes"}},
			"no file":           {byName("fits.txt", "none.yaml"), codes.FailedPrecondition, []string{failed, "no such file", "none.yaml"}},
			"below a file":      {byName("a.yaml/b"), codes.FailedPrecondition, []string{failed, "a.yaml/b"}},
			"folder by name":    {byName("x"), codes.FailedPrecondition, []string{failed, "x is not a regular file", "folder"}},
			"link by name":      {byName("link.yaml"), codes.FailedPrecondition, []string{failed, "link.yaml is not a regular file", "symbolic link"}},
			"loop by name":      {byName("loop"), codes.FailedPrecondition, []string{failed, "symbolic link"}},
			"submodule by name": {byName("sub"), codes.FailedPrecondition, []string{failed, "submodule"}},
			"name leaves":       {byName("../a.yaml"), codes.FailedPrecondition, []string{failed, "../a.yaml"}},
		} {
			w.Log(name) // seen where it fails
			w.refused(tt.req, tt.code, tt.texts...)
		}
		if w.syncs() != 0 || w.logs.FilterMessage("GitOps: rejected").Len() == 0 {
			w.Errorf("%d syncs, log %v", w.syncs(), w.logs.All())
		}
		// Whatever is wrong with one file is no matter to who does not want it.
		w.want(byName("fits.txt"), w.git("infra/agents", "", "rev-parse", "main"), "fits.txt", strings.Repeat("x", 1000))
	})
}

func TestSync_TotalSize(t *testing.T) {
	backends(t, func(w *world) {
		var files []string
		for i := range 4 {
			files = append(files, add(fmt.Sprintf("%d.yaml", i), strings.Repeat(fmt.Sprint(i), 750)))
		}
		commit := w.commit("infra/agents", "main", files...)
		got, err := w.open(ownToken, globs("*.yaml")).batch()
		if err != nil || got.commit != commit || len(got.files) != 4 {
			w.Fatalf("exactly as many bytes as are allowed: %v, %v", got, err)
		}
		w.commit("infra/agents", "main", add("4.yaml", "4"))
		w.refused(globs("*.yaml"), codes.FailedPrecondition, "4.yaml", "more than 3000 bytes (limit on the total size)")
	})
}

func TestSync_Entries(t *testing.T) {
	backends(t, func(w *world) {
		var script strings.Builder
		for i := range 20_000 {
			fmt.Fprintf(&script, "M 100644 inline many/%03d/%d.txt\ndata 1\nx\n", i/50, i)
		}
		commit := w.commit("infra/agents", "main", script.String(), add("a.yaml", "a"))
		w.refused(globs("**/*.yaml"), codes.FailedPrecondition, "more than 50 entries", "limit on files")
		w.want(globs("*.yaml"), commit, "a.yaml", "a")
		w.refused(globs("many/*/*.txt"), codes.FailedPrecondition, "more than 50 entries")
		got, err := w.open(ownToken, globs("many/007/*.txt")).batch()
		if err != nil || len(got.files) != 50 {
			w.Errorf("%d files, %v", len(got.files), err)
		}
	})
}

// forge writes a blob of a size that is nowhere: whoever reads it to its end fails, whoever asks for its size does not.
func (w *world) forge(project string, size int64) string {
	w.Helper()
	var buf bytes.Buffer
	z := zlib.NewWriter(&buf)
	fmt.Fprintf(z, "blob %d\x00", size)
	for range 64 {
		_, _ = z.Write(make([]byte, 1<<10))
	}
	_ = z.Flush() // and no end
	id := strings.Repeat("ab", 20)
	dir := filepath.Join(w.root, project+".git", "objects", id[:2])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, id[2:]), buf.Bytes(), 0o600); err != nil {
		w.Fatal(err)
	}
	return id
}

func TestSync_HugeBlobIsNotRead(t *testing.T) {
	backends(t, func(w *world) {
		id := w.forge("infra/agents", 1<<30)
		w.commit("infra/agents", "main", add("a.yaml", "a"))
		// git fast-import would look at the blob.
		tree := w.git("infra/agents", "100644 blob "+id+"\tbig.yaml\n", "mktree", "--missing")
		commit := w.git("infra/agents", "", "-c", "user.name=t", "-c", "user.email=t@corp.test", "commit-tree", "-m", "big", tree)
		w.git("infra/agents", "", "update-ref", "refs/heads/main", commit)
		w.pushed("infra/agents")
		w.refused(globs("*.yaml"), codes.FailedPrecondition, "big.yaml is too big: 1073741824 bytes, at most 1000 are allowed")
		w.refused(byName("big.yaml"), codes.FailedPrecondition, "big.yaml is too big: 1073741824 bytes, at most 1000 are allowed")
	})
}

func TestSync_RepositoryDeleted(t *testing.T) {
	backends(t, func(w *world) {
		first := w.commit("infra/agents", "main", add("a.yaml", "a"))
		if err := os.RemoveAll(filepath.Join(w.root, "infra/agents.git")); err != nil {
			w.Fatal(err)
		}
		w.pushed("infra/agents")
		s := w.open(ownToken, at(globs("*.yaml"), nil, first))
		if w.gitaly != nil { // it may be moving: the stream waits for better times
			w.eventually("the poll fails", func() bool { return w.logs.FilterMessage("GitOps: repository poll failed, retrying").Len() > 0 })
			s.cancel()
			s.refused(codes.Canceled)
			return
		}
		s.refused(codes.NotFound, "GitOps: repository poll failed: ", "infra/agents")
	})
}

// TestCVE_2020_13358: the internal API gave agents access to private projects.
func TestCVE_2020_13358(t *testing.T) {
	backends(t, func(w *world) {
		for _, project := range []string{"infra/agents", "infra/public", "infra/granted", "other/agents"} {
			w.commit(project, "main", add("a.yaml", project))
		}
		ask := func(token, project string) error {
			req := globs("*.yaml")
			req.ProjectId = project
			got, err := w.open(token, req).batch()
			if err == nil && got.files["a.yaml"] != project {
				w.Errorf("%s: %v", project, got)
			}
			return err
		}
		for token, allowed := range map[string][]string{
			ownToken:      {"infra/agents", "infra/public", "infra/granted"},
			strangerToken: {"infra/public", "other/agents"},
		} {
			refusals := map[string]bool{}
			for _, project := range []string{"infra/agents", "infra/public", "infra/granted", "other/agents", "none/none", "infra", "../infra/agents", strings.Repeat("x", 10_000)} {
				err := ask(token, project)
				if slices.Contains(allowed, project) {
					if err != nil {
						w.Errorf("%s: %v", project, err)
					}
					continue
				}
				if status.Code(err) != codes.NotFound {
					w.Errorf("%.30s: %v", project, err)
				}
				refusals[status.Convert(err).String()] = true
			}
			if len(refusals) != 1 || !refusals[status.New(codes.NotFound, "project not found").String()] {
				w.Errorf("refusals that can be told apart: %v", refusals)
			}
		}
		if err := ask("glagent-made-up", "infra/public"); status.Code(err) != codes.Unauthenticated {
			w.Errorf("a stranger: %v", err)
		}
	})
}

func TestSync_OnlyWhatChangedIsRead(t *testing.T) {
	backends(t, func(w *world) {
		var files []string
		for i := range 40 {
			files = append(files, add(fmt.Sprintf("%d.yaml", i), fmt.Sprintf("content %d", i)))
		}
		w.commit("infra/agents", "main", files...)
		if _, err := w.open(ownToken, globs("*.yaml")).batch(); err != nil {
			w.Fatal(err)
		}
		if w.counted(sourceGit) != 40 || w.counted(sourceCache) != 0 {
			w.Errorf("%d files from git, %d from the cache", w.counted(sourceGit), w.counted(sourceCache))
		}
		w.commit("infra/agents", "main", add("7.yaml", "new"), add("same.yaml", "content 8"))
		got, err := w.open(ownToken, globs("*.yaml")).batch()
		if err != nil || got.files["7.yaml"] != "new" || got.files["same.yaml"] != "content 8" || len(got.files) != 41 {
			w.Errorf("%v, %v", got.files, err)
		}
		if w.counted(sourceGit) != 41 || w.counted(sourceCache) != 40 {
			w.Errorf("%d files from git, %d from the cache", w.counted(sourceGit), w.counted(sourceCache))
		}
	})
}

func TestSync_ManyAgentsOneRead(t *testing.T) {
	w := newWorld(t, (*world).newGitaly)
	commit := w.commit("infra/public", "main", add("a.yaml", "a"))
	w.gitaly.Break(double.Fault{Method: "GetTreeEntries", Delay: time.Second, Times: 1})
	req := globs("*.yaml")
	req.ProjectId = "infra/public"
	var calls []*call
	for i := range 6 {
		calls = append(calls, w.open([]string{ownToken, strangerToken}[i%2], req))
	}
	for _, c := range calls {
		c.want(commit, "a.yaml", "a")
	}
	if lists, blobs := len(w.gitaly.Calls("GetTreeEntries")), len(w.gitaly.Calls("GetBlobs")); lists != 1 || blobs != 1 {
		t.Errorf("%d listings, %d reads", lists, blobs)
	}
}

func TestSync_GitalyBreaksOff(t *testing.T) {
	w := newWorld(t, (*world).newGitaly)
	commit := w.commit("infra/agents", "main", add("a.yaml", "a"), add("b.yaml", "b"), add("c.yaml", "c"))
	for name, broken := range map[string]double.Fault{
		"in the middle of files":   {Method: "GetBlobs", Code: codes.Unavailable, Message: "node died", After: 1},
		"before the files":         {Method: "GetBlobs", Code: codes.Internal, Message: "failed proxying"},
		"at the listing":           {Method: "GetTreeEntries", Code: codes.Internal, Message: "no healthy nodes"},
		"repository moved in time": {Method: "GetTreeEntries", Code: codes.NotFound, Message: "repository not found"},
	} {
		w.gitaly.Break(broken)
		_, err := w.open(ownToken, globs("*.yaml")).batch()
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "GitOps: failed to get objects to synchronize" {
			t.Errorf("%s: %v", name, err)
		}
		w.gitaly.Mend()
	}
	w.want(globs("*.yaml"), commit, "a.yaml", "a", "b.yaml", "b", "c.yaml", "c")
	// Not reachable at all: nothing is known, so nothing is said.
	w.gitaly.Stop()
	s := w.open(ownToken, globs("*.yaml"))
	w.eventually("the poll fails", func() bool { return w.logs.FilterMessage("GitOps: repository poll failed, retrying").Len() > 0 })
	s.cancel()
	s.refused(codes.Canceled)
}

func TestSync_Chunks(t *testing.T) {
	backends(t, func(w *world) {
		content := strings.Repeat("0123456789abcdef", 5<<20/16)
		commit := w.commit("infra/agents", "main", add("a.yaml", content), add("b.yaml", content[:128<<10]))
		w.want(globs("*.yaml"), commit, "a.yaml", content, "b.yaml", content[:128<<10])
	}, func(c *Config) {
		c.Limits = Limits{FileBytes: 5 << 20, TotalBytes: 20 << 20, Paths: 100, Files: 1000}
	})
}
