package telemetry

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"gitlab.com/agentk/agentk/internal/version"
)

// Names of the daemons as prefixes of their own metrics.
const (
	Kas    = "kas"
	Agentk = "agentk"
)

// NewRegistry returns the registry of a daemon (Kas or Agentk) with the metrics that every process has and its build:
// <daemon>_build_info and, on kas, gitlab_build_info, by which GitLab's dashboards know it.
func NewRegistry(daemon string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info(daemon+"_build_info", "Which build runs here; always 1.", prometheus.Labels{
			"version": version.Version, "commit": version.Commit, "go_version": runtime.Version(),
		}),
	)
	if daemon == Kas {
		reg.MustRegister(info("gitlab_build_info", "Current build of this GitLab component; always 1.", prometheus.Labels{
			"version": version.Version, "built": built(),
		}))
	}
	return reg
}

func info(name, help string, labels prometheus.Labels) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
	g.Set(1)
	return g
}

// built is the time of the commit this binary was built from, as the Go tool stamped it.
func built() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	return "unknown"
}
