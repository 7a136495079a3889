package agent

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/agentcfg"
)

const (
	defaultNamespace  = "default"
	defaultGlob       = "**/*.{yaml,yml,json}"
	defaultTimeout    = time.Hour
	defaultDrift      = 5 * time.Minute
	defaultMaxHistory = 1
	defaultPoll       = time.Minute
	defaultValuesSize = 1 << 20
)

// fillProject returns a copy in which no key is open.
func fillProject(p *agentcfg.ManifestProjectCF, configProject string) *agentcfg.ManifestProjectCF {
	p = proto.CloneOf(p)
	if p.Id == nil {
		p.Id = &configProject
	}
	if len(p.GetPaths()) == 0 {
		p.Paths = []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Glob{Glob: defaultGlob}}}
	}
	if p.GetPruneOneof() == nil {
		p.PruneOneof = &agentcfg.ManifestProjectCF_Prune{Prune: true}
	}
	if p.Drift == nil {
		p.Drift = &agentcfg.DriftCF{}
	}
	orText(&p.DefaultNamespace, defaultNamespace)
	orText(&p.DryRunStrategy, "none")
	orText(&p.PrunePropagationPolicy, "foreground")
	orText(&p.InventoryPolicy, "must_match")
	orText(&p.OnError, "stop")
	orDuration(&p.ReconcileTimeout, defaultTimeout)
	orDuration(&p.PruneTimeout, defaultTimeout)
	orDuration(&p.Drift.Interval, defaultDrift)
	return p
}

// fillChart returns a copy in which no key is open.
func fillChart(c *agentcfg.ChartCF, configProject string) *agentcfg.ChartCF {
	c = proto.CloneOf(c)
	orText(&c.Namespace, defaultNamespace)
	if c.MaxHistory == nil {
		c.MaxHistory = proto.Int32(defaultMaxHistory)
	}
	if p := c.GetSource().GetProject(); p != nil {
		orText(&p.Id, configProject)
		orText(&p.Path, ".")
	}
	for _, v := range c.GetValues() {
		if f := v.GetFile(); f != nil {
			orText(&f.ProjectId, configProject)
		}
		if u := v.GetUrl(); u != nil {
			orDuration(&u.PollPeriod, defaultPoll)
			if u.MaxFileSize == 0 {
				u.MaxFileSize = defaultValuesSize
			}
		}
	}
	return c
}

func orText(s *string, byDefault string) {
	if *s == "" {
		*s = byDefault
	}
}

func orDuration(d **durationpb.Duration, byDefault time.Duration) {
	if *d == nil {
		*d = durationpb.New(byDefault)
	}
}
