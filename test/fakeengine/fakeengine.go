// Package fakeengine plays the GitOps engine in tests of its parent, good or bad as the files that it gets tell it. The test's own
// executable is the engine, under another name, so that nothing has to be built.
package fakeengine

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
)

// name is that of the executable.
const name = "agentk-gitops"

// Environment variables that steer it before it has files.
const (
	// Never set to anything: it is never ready.
	Never = "FAKE_NEVER_READY"
	// Stubborn set to anything: the end of its input does not end it.
	Stubborn = "FAKE_STUBBORN"
	// Quiet set to anything: it says no more once it is ready.
	Quiet = "FAKE_QUIET"
	// Child set to anything: it starts a process of its own, and its Log "child" has the pid.
	Child = "FAKE_CHILD"
)

// Contents of files that make it misbehave when they are run. "need:DIR" makes it need a directory.
const (
	Crash   = "crash"
	Exit    = "exit"
	Garbage = "garbage"
	Hang    = "hang"   // it says no more
	Closed  = "closed" // it closes its output
	Deaf    = "deaf"
	Bloat   = "bloat"
	Linger  = "linger" // the run does not finish by itself
	Fail    = "fail"   // the run fails
)

// Executable returns the path of the engine; TestMain of the test has to call Main.
func Executable(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// Main is the engine if this process was started as one, and does not return then.
func Main() {
	if filepath.Base(os.Args[0]) != name {
		return
	}
	f := &fake{in: stdio.NewReader(os.Stdin), out: stdio.NewWriter(os.Stdout), units: map[string]*unit{}}
	if err := f.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// mute is set when nothing more is to be said.
var mute atomic.Bool

type unit struct {
	begin *engine.Begin
	files map[string]string
	runs  string // commit of the run that goes on
}

type fake struct {
	in    *stdio.Reader
	out   *stdio.Writer
	units map[string]*unit
	agent int64
}

func (f *fake) run() error {
	first := &engine.ToEngine{}
	if err := f.in.Read(first); err != nil || first.GetSetup() == nil {
		return fmt.Errorf("the first message is %v, %w", first, err)
	}
	f.agent = first.GetSetup().GetAgentId()
	if os.Getenv(Never) != "" {
		select {}
	}
	if err := f.say(&engine.FromEngine{Message: &engine.FromEngine_Ready{Ready: &engine.Ready{}}}); err != nil {
		return err
	}
	setup, err := json.Marshal(map[string]any{"agent": first.GetSetup().GetAgentId(), "kubeconfig": string(first.GetSetup().GetKubeconfig())})
	if err != nil {
		return err
	}
	f.log("setup", "setup", string(setup), "environment", strings.Join(os.Environ(), "\n"), "pid", strconv.Itoa(os.Getpid()))
	if os.Getenv(Child) != "" {
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			return err
		}
		f.log("child", "pid", strconv.Itoa(cmd.Process.Pid))
	}
	mute.Store(os.Getenv(Quiet) != "")
	go f.beat()
	for {
		m := &engine.ToEngine{}
		if err := f.in.Read(m); err != nil {
			if os.Getenv(Stubborn) != "" {
				select {}
			}
			return nil
		}
		if err := f.handle(m); err != nil {
			return err
		}
	}
}

func (f *fake) beat() {
	for range time.Tick(50 * time.Millisecond) {
		if mute.Load() {
			continue
		}
		_ = f.say(&engine.FromEngine{Message: &engine.FromEngine_Metrics{Metrics: &engine.Metrics{ResidentBytes: 1 << 20, CpuSeconds: 1, Goroutines: 5}}})
	}
}

func (f *fake) say(m *engine.FromEngine) error { return f.out.Write(m) }

func (f *fake) log(message string, fields ...string) {
	m := map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		m[fields[i]] = fields[i+1]
	}
	_ = f.say(&engine.FromEngine{Message: &engine.FromEngine_Log{Log: &engine.Log{Level: "info", Message: "fake: " + message, Fields: m}}})
}

func (f *fake) handle(m *engine.ToEngine) error {
	switch m := m.GetMessage().(type) {
	case *engine.ToEngine_Begin:
		u := f.units[m.Begin.GetWorker()]
		if u == nil {
			u = &unit{}
			f.units[m.Begin.GetWorker()] = u
		}
		u.begin, u.files = m.Begin, map[string]string{}
		return nil
	case *engine.ToEngine_File:
		u := f.units[m.File.GetWorker()]
		if u == nil {
			return fmt.Errorf("file of %s, which was not begun", m.File.GetWorker())
		}
		u.files[strconv.Itoa(int(m.File.GetSource()))+":"+m.File.GetPath()] += string(m.File.GetData())
		return nil
	case *engine.ToEngine_Run:
		return f.start(m.Run.GetWorker())
	case *engine.ToEngine_Forget:
		f.log("forget", "worker_id", m.Forget.GetWorker())
		delete(f.units, m.Forget.GetWorker())
	}
	return nil
}

func (f *fake) start(worker string) error {
	u := f.units[worker]
	if u.runs != "" {
		if err := f.finish(&engine.Finished{Worker: worker, CommitId: u.runs, Cancelled: true}); err != nil {
			return err
		}
		u.runs = ""
	}
	commit := u.begin.GetManifestProject().GetCommitId() + u.begin.GetChart().GetCommitId()
	if u.begin.GetDiff() {
		return f.diff(worker, u)
	}
	if held := u.begin.GetHeld(); held != "" {
		f.log("held", "worker_id", worker, "commit_id", commit)
		return f.finish(&engine.Finished{Worker: worker, CommitId: commit, Error: held, UserError: true})
	}
	if err := f.say(&engine.FromEngine{Message: &engine.FromEngine_Working{Working: &engine.Working{Worker: worker, Rendering: true}}}); err != nil {
		return err
	}
	files, err := json.Marshal(u.files)
	if err != nil {
		return err
	}
	f.log("run", "worker_id", worker, "commit_id", commit, "files", string(files), "fetched", strings.Join(u.begin.GetFetched(), ","))
	done := &engine.Finished{Worker: worker, CommitId: commit, Applied: int32(len(u.files))}
	for _, content := range u.files {
		if dir, found := strings.CutPrefix(content, "need:"); found && !slices.Contains(u.begin.GetFetched(), dir) {
			return f.say(&engine.FromEngine{Message: &engine.FromEngine_Need{Need: &engine.Need{Worker: worker, CommitId: commit, Directories: []string{dir}}}})
		}
		if content == Linger {
			u.runs = commit
			return nil
		}
		if content == Fail {
			done.Error, done.UserError = "a.yaml:1: something is wrong", true
		}
		misbehave(content)
	}
	return f.finish(done)
}

// diff claims that each file is an object that would be created, and that one would be deleted.
func (f *fake) diff(worker string, u *unit) error {
	for _, key := range slices.Sorted(maps.Keys(u.files)) {
		content := u.files[key]
		if dir, found := strings.CutPrefix(content, "need:"); found && !slices.Contains(u.begin.GetFetched(), dir) {
			return f.say(&engine.FromEngine{Message: &engine.FromEngine_Need{Need: &engine.Need{Worker: worker, Directories: []string{dir}}}})
		}
		misbehave(content)
	}
	for _, key := range slices.Sorted(maps.Keys(u.files)) {
		d := &engine.Diff{Worker: worker, Action: engine.Diff_CREATE, Object: "ConfigMap a/b", File: key[2:], Line: 1, Text: "+" + u.files[key] + "\n"}
		if err := f.say(&engine.FromEngine{Message: &engine.FromEngine_Diff{Diff: d}}); err != nil {
			return err
		}
		if u.files[key] == Fail {
			return f.finish(&engine.Finished{Worker: worker, Error: "a.yaml:1: something is wrong", UserError: true})
		}
	}
	p := u.begin.GetManifestProject()
	text := fmt.Sprintf("inventory-%d-%d of %s", f.agent, p.GetProjectId(), p.GetSpec().GetDefaultNamespace())
	d := &engine.Diff{Worker: worker, Action: engine.Diff_PRUNE, Object: "Secret a/old", Text: text}
	if err := f.say(&engine.FromEngine{Message: &engine.FromEngine_Diff{Diff: d}}); err != nil {
		return err
	}
	return f.finish(&engine.Finished{Worker: worker, Applied: int32(len(u.files)), Pruned: 1})
}

func (f *fake) finish(m *engine.Finished) error {
	return f.say(&engine.FromEngine{Message: &engine.FromEngine_Finished{Finished: m}})
}

// misbehave does not return where the content tells it to.
func misbehave(content string) {
	switch content {
	case Crash:
		panic("the fake engine crashes, and knows the secret canary")
	case Exit:
		os.Exit(0)
	case Garbage:
		fmt.Print("this is no message, and longer than four bytes")
		select {}
	case Hang:
		mute.Store(true)
		select {}
	case Closed:
		mute.Store(true)
		_ = os.Stdout.Close()
		select {}
	case Deaf: // it reads no more
		select {}
	case Bloat:
		var all [][]byte
		for {
			block := make([]byte, 16<<20)
			for i := range block {
				block[i] = byte(i)
			}
			all = append(all, block)
			if len(all) > 256 {
				os.Exit(4)
			}
		}
	}
}
