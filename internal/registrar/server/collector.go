package server

import (
	"context"
	"regexp"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// scrapeTimeout bounds the question to the store; a scrape has fifteen seconds.
	scrapeTimeout = 5 * time.Second
	// maxVersions bounds the versions of one agent that get a line of their own. An agent has two during an update.
	maxVersions = 10
	// otherVersion stands for versions that do not look like one, and for those beyond maxVersions.
	otherVersion = "other"
)

// versionLabel keeps what agents make up out of the metrics.
var versionLabel = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`)

// collector reads the store at each scrape, so that its numbers are those of all replicas and expire with the entries.
type collector struct {
	registry Registry
	log      *zap.Logger
	count    *prometheus.Desc
	agents   *prometheus.Desc
}

func newCollector(registry Registry, log *zap.Logger) *collector {
	return &collector{
		registry: registry,
		log:      log,
		count:    prometheus.NewDesc("connected_agents_count", "Agents with at least one registered connection", nil, nil),
		agents: prometheus.NewDesc("kas_agents_connected", "Registered connections (pods) of each agent by version",
			[]string{"agent_id", "version"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.count
	ch <- c.agents
}

// Collect implements prometheus.Collector. Without an answer of the store there are no numbers rather than wrong ones.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	infos, err := c.registry.AllAgents(ctx)
	if err != nil {
		c.log.Warn("Connected agents could not be counted", zap.Error(err))
		return
	}
	agents := map[int64]map[string]int{}
	for _, info := range infos {
		versions := agents[info.AgentId]
		if versions == nil {
			versions = map[string]int{}
			agents[info.AgentId] = versions
		}
		version := info.GetAgentMeta().GetVersion()
		if _, known := versions[version]; !known && len(versions) >= maxVersions || !versionLabel.MatchString(version) {
			version = otherVersion
		}
		versions[version]++
	}
	ch <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(len(agents)))
	for id, versions := range agents {
		for version, n := range versions {
			ch <- prometheus.MustNewConstMetric(c.agents, prometheus.GaugeValue, float64(n), strconv.FormatInt(id, 10), version)
		}
	}
}
