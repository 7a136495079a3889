// Package preview shows what a synchronisation would change in the cluster, from a checkout of the repository: the GitOps engine renders
// and compares, as it does for the agent, and applies nothing.
package preview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/gitops/selection"
)

const (
	// commit is what the checkout is called.
	commit = "working tree"
	// worker is what the engine calls it.
	worker = "preview"
	// maxRounds is how often the engine may ask for further directories.
	maxRounds = 10
	piece     = 128 << 10
)

// Config configures a comparison.
type Config struct {
	// Dir is the root of the checkout.
	Dir string
	// Project is the configuration with all defaults, and ProjectID and AgentID whose inventory it is.
	Project            *agentcfg.ManifestProjectCF
	ProjectID, AgentID int64
	Engine             string
	Memory             int64
	Access             child.Access
	// Found gets each difference.
	Found func(*engine.Diff) error
	// Logged gets the engine's log.
	Logged func(*engine.Log)
}

// Run compares, and returns how many objects would be applied and pruned. The error is that of the repository, of the engine or of Found.
func Run(ctx context.Context, cfg Config) (*engine.Finished, error) {
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it was only read
	c := &comparison{cfg: cfg, root: root, messages: make(chan *engine.FromEngine), over: make(chan struct{})}
	if err := c.choose(); err != nil {
		return nil, err
	}
	var failed error
	err = child.Run(ctx, child.Config{
		Executable: cfg.Engine, Environment: cfg.Access.Environment, Memory: cfg.Memory, Secrets: cfg.Access.Secrets,
		Setup:   &engine.Setup{AgentId: cfg.AgentID, Kubeconfig: cfg.Access.Kubeconfig},
		Receive: c.receive,
	}, func(ctx context.Context, e *child.Engine) {
		defer close(c.over)
		failed = c.run(ctx, e)
	})
	switch {
	case failed != nil:
		return nil, failed
	case err != nil:
		return nil, err
	case c.finished == nil:
		return nil, ctx.Err()
	case c.finished.GetError() != "":
		return c.finished, errors.New(c.finished.GetError())
	}
	return c.finished, nil
}

// comparison is one run.
type comparison struct {
	cfg      Config
	root     *os.Root
	globs    []selection.Glob
	dirs     []string // that are passed on whole
	fetched  []string // those of them that the engine asked for
	messages chan *engine.FromEngine
	over     chan struct{} // closed when nobody takes messages any more
	finished *engine.Finished
}

// choose reads which files are meant.
func (c *comparison) choose() error {
	for _, p := range c.cfg.Project.GetPaths() {
		if dir := p.GetKustomize(); dir != "" {
			c.dirs = append(c.dirs, dir)
			continue
		}
		glob, err := selection.ParseGlob(p.GetGlob())
		if err != nil {
			return err
		}
		c.globs = append(c.globs, glob)
	}
	return nil
}

func (c *comparison) receive(m *engine.FromEngine) {
	if m.GetLog() != nil {
		c.cfg.Logged(m.GetLog())
		return
	}
	if m.GetMetrics() != nil || m.GetWorking() != nil {
		return
	}
	select {
	case c.messages <- m:
	case <-c.over:
	}
}

// run passes on the files, again while the engine needs more, and the differences until all are there. Without an error and without a
// result the engine is at its end.
func (c *comparison) run(ctx context.Context, e *child.Engine) error {
	for range maxRounds {
		if err := c.pass(e); err != nil {
			return err
		}
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return nil
			case m := <-c.messages:
				switch {
				case m.GetNeed() != nil:
					c.fetched = append(c.fetched, m.GetNeed().GetDirectories()...)
					again = true
				case m.GetDiff() != nil:
					if err := c.cfg.Found(m.GetDiff()); err != nil {
						return err
					}
				case m.GetFinished() != nil:
					c.finished = m.GetFinished()
					return nil
				}
			}
		}
	}
	return fmt.Errorf("kustomizations refer to each other through more than %d directories", maxRounds)
}

// pass announces the comparison, passes on the files and starts it.
func (c *comparison) pass(e *child.Engine) error {
	begin := &engine.Begin{Worker: worker, Diff: true, Fetched: c.fetched, Unit: &engine.Begin_ManifestProject{
		ManifestProject: &engine.ManifestProject{Spec: c.cfg.Project, ProjectId: c.cfg.ProjectID, CommitId: commit},
	}}
	if err := e.Send(&engine.ToEngine{Message: &engine.ToEngine_Begin{Begin: begin}}); err != nil {
		return err
	}
	err := fs.WalkDir(c.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir // as the agent does
		case !d.Type().IsRegular() || !c.means(name):
			return nil
		}
		return c.send(e, name)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", c.cfg.Dir, err)
	}
	return e.Send(&engine.ToEngine{Message: &engine.ToEngine_Run{Run: &engine.Run{Worker: worker}}})
}

func (c *comparison) means(name string) bool {
	if slices.ContainsFunc(c.globs, func(g selection.Glob) bool { return g.Match(name) }) {
		return true
	}
	return slices.ContainsFunc(slices.Concat(c.dirs, c.fetched), func(dir string) bool {
		return dir == "." || strings.HasPrefix(name, dir+"/")
	})
}

// send passes on a file in pieces.
func (c *comparison) send(e *child.Engine, name string) error {
	file, err := c.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	buf := make([]byte, piece)
	for first := true; ; first = false {
		n, err := io.ReadFull(file, buf)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if n > 0 || first {
			m := &engine.File{Worker: worker, Path: name, Data: buf[:n]}
			if err := e.Send(&engine.ToEngine{Message: &engine.ToEngine_File{File: m}}); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}
