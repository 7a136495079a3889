package tunnel

import "github.com/prometheus/client_golang/prometheus"

type registryMetrics struct {
	saturated prometheus.Counter
}

func newRegistryMetrics(reg prometheus.Registerer, r *Registry) registryMetrics {
	m := registryMetrics{saturated: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kas_tunnel_saturated_total",
		Help: "Requests refused because an agent had no stream left to give",
	})}
	reg.MustRegister(m.saturated, &tunnelCollector{registry: r, desc: prometheus.NewDesc(
		"kas_tunnels", "Reverse tunnel streams of agents connected to this kas", []string{"state"}, nil)})
	return m
}

// tunnelCollector counts streams when it is scraped, so that the hot path does not.
type tunnelCollector struct {
	registry *Registry
	desc     *prometheus.Desc
}

func (c *tunnelCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *tunnelCollector) Collect(ch chan<- prometheus.Metric) {
	idle, busy := 0, 0
	for i := range c.registry.shards {
		s := &c.registry.shards[i]
		s.mu.Lock()
		for _, a := range s.agents {
			for _, conn := range a.conns {
				idle += conn.idle.Len()
				busy += conn.busy
			}
		}
		s.mu.Unlock()
	}
	ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(idle), "idle")
	ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(busy), "busy")
}
