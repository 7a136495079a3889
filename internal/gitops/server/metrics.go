package server

import "github.com/prometheus/client_golang/prometheus"

const (
	resultSent     = "sent"
	resultRejected = "rejected"
	resultError    = "error"

	sourceCache = "cache"
	sourceGit   = "git"
)

type metrics struct{ results, files *prometheus.CounterVec }

func newMetrics() metrics {
	m := metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitops_syncs_total",
			Help: "Looks at GitOps projects that had a result: files sent, rejected because of the user's mistake, or error",
		}, []string{"result"}),
		files: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitops_files_total",
			Help: "Files of GitOps projects by where they were read: from git, or from the cache because they had not changed",
		}, []string{"source"}),
	}
	for _, result := range []string{resultSent, resultRejected, resultError} {
		m.results.WithLabelValues(result)
	}
	for _, source := range []string{sourceCache, sourceGit} {
		m.files.WithLabelValues(source)
	}
	return m
}

func (m metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(m.results); err != nil {
		return err
	}
	return r.Register(m.files)
}
