package render

import (
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
)

// Record is what "helm list", "helm history" and "helm get" read of the release. The chart's templates and files are left out: Helm reads
// them of no release that exists, and a Secret has no room for them.
func (r Release) Record(revision int, status release.Status, description string, first, last time.Time) *release.Release {
	return &release.Release{
		Name:      r.Name,
		Namespace: r.Namespace,
		Version:   revision,
		Config:    r.Config,
		Manifest:  r.Manifest,
		Chart:     &chart.Chart{Metadata: r.chart.Metadata, Lock: r.chart.Lock, Values: r.chart.Values},
		Info: &release.Info{
			FirstDeployed: helmtime.Time{Time: first},
			LastDeployed:  helmtime.Time{Time: last},
			Status:        status,
			Description:   description,
		},
	}
}
