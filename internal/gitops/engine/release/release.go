// Package release keeps Helm's records of charts that the engine has applied: Secrets that "helm list" and "helm history" read. They are
// for people; nothing is ever decided by them.
package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/render"
)

// DefaultHistory is how many records are kept when the configuration does not say.
const DefaultHistory = 1

// Record notes that r was applied, as a new revision if anything differs from the newest one. history bounds the number of records.
// The client's requests end with its run.
func Record(client *cluster.Client, r *render.Release, commit string, history int) error {
	core, err := client.Core()
	if err != nil {
		return err
	}
	store := storage.Init(driver.NewSecrets(core.Secrets(r.Namespace)))
	store.MaxHistory = history
	old, err := store.History(r.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return fmt.Errorf("read release records of %s: %w", r.Name, err)
	}
	releaseutil.SortByRevision(old)
	now := time.Now()
	revision, first := 1, now
	if len(old) > 0 {
		newest := old[len(old)-1]
		revision, first = newest.Version+1, newest.Info.FirstDeployed.Time
		if same(newest, r) {
			return nil
		}
	}
	for _, o := range old {
		if o.Info.Status != release.StatusDeployed {
			continue
		}
		o.Info.Status = release.StatusSuperseded
		if err := store.Update(o); err != nil {
			return fmt.Errorf("write release record of %s: %w", r.Name, err)
		}
	}
	if err := store.Create(r.Record(revision, release.StatusDeployed, "Applied by agentk from commit "+commit, first, now)); err != nil {
		return fmt.Errorf("write release record of %s: %w", r.Name, err)
	}
	return nil
}

// same says that the newest record tells of just this release.
func same(newest *release.Release, r *render.Release) bool {
	return newest.Info.Status == release.StatusDeployed && newest.Manifest == r.Manifest &&
		newest.Chart != nil && newest.Chart.Metadata != nil && newest.Chart.Metadata.Version == r.ChartVersion &&
		sameConfig(newest.Config, r.Config)
}

// sameConfig compares as JSON: what comes back from a record has other types of numbers.
func sameConfig(a, b map[string]any) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
