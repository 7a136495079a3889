package server

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/store"
)

func TestNew_Mistakes(t *testing.T) {
	good := func() Config {
		f := &fake{}
		return Config{
			Auth: f, Token: bearerOf, AgeLimit: noAgeLimit, Projects: f, Repository: f, Pushes: store.NewMemory(store.MemoryConfig{}),
			PollPeriod: time.Minute, Limits: testLimits, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"auth": func(c *Config) { c.Auth = nil }, "token": func(c *Config) { c.Token = nil }, "age": func(c *Config) { c.AgeLimit = nil },
		"projects": func(c *Config) { c.Projects = nil }, "repository": func(c *Config) { c.Repository = nil }, "pushes": func(c *Config) { c.Pushes = nil },
		"log": func(c *Config) { c.Log = nil }, "period": func(c *Config) { c.PollPeriod = 0 }, "file": func(c *Config) { c.Limits.FileBytes = 0 },
		"total": func(c *Config) { c.Limits.TotalBytes = -1 }, "paths": func(c *Config) { c.Limits.Paths = 0 }, "files": func(c *Config) { c.Limits.Files = 0 },
		"ttl": func(c *Config) { c.ProjectTTL = -1 }, "error ttl": func(c *Config) { c.ProjectErrorTTL = -1 },
		"cache": func(c *Config) { c.CacheBytes = -1 }, "room": func(c *Config) { c.ReadBytes = -1 },
	} {
		cfg := good()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("without %s: no error", name)
		}
	}
	cfg := good()
	if _, err := New(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg); err == nil {
		t.Error("metrics registered twice")
	}
}

// TestWanted_Key: only who asks for the same of the same gets the same.
func TestWanted_Key(t *testing.T) {
	project := func(path string) backend.Project {
		return backend.Project{Path: "p", Gitaly: &entity.GitalyInfo{Address: "a"}, Repository: &entity.GitalyRepository{StorageName: "s", RelativePath: path}}
	}
	seen := map[string]int{}
	for i, in := range []struct {
		project backend.Project
		commit  string
		req     *gitops.ObjectsToSynchronizeRequest
	}{
		{project("x"), "c", globs("a", "b")},
		{project("x"), "c", globs("a")},
		{project("x"), "c", globs("a\"\"glob\"\"b")},
		{project("x"), "c", byName("a", "b")},
		{project("x"), "d", globs("a", "b")},
		{project("y"), "c", globs("a", "b")},
		{backend.Project{Path: "p"}, "c", globs("a", "b")},
		{backend.Project{Path: "q"}, "c", globs("a", "b")},
	} {
		w, err := newWanted(in.project, in.commit, in.req.Paths)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[w.key]; taken {
			t.Errorf("%d and %d have the same key", i, other)
		}
		seen[w.key] = i
	}
}
