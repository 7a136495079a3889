package engine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
)

// Defaults of the configuration, for keys that were not set.
const (
	defaultNamespace = "default"
	defaultTimeout   = time.Hour
	defaultInterval  = 5 * time.Minute
)

// unit is what one worker synchronises, as configured, at one commit.
type unit struct {
	project   *agentcfg.ManifestProjectCF // nil: a chart
	chart     *agentcfg.ChartCF           // nil: a manifest project
	title     string                      // for people: the project's path or the release's name
	commit    string
	fetched   []string
	namespace string // of objects without one, of the inventory and of the status
	id        string // of the inventory and in the names of inventory and status
	account   string
	options   apply.Options
	interval  time.Duration
	watch     bool
}

// newUnit reads what was announced.
func newUnit(agentID int64, begin *engine.Begin) (unit, error) {
	switch {
	case begin.GetManifestProject() != nil:
		return projectUnit(agentID, begin)
	case begin.GetChart() != nil:
		return chartUnit(agentID, begin), nil
	}
	return unit{}, errors.New("neither a manifest project nor a chart was announced")
}

func projectUnit(agentID int64, begin *engine.Begin) (unit, error) {
	p := begin.GetManifestProject()
	spec := p.GetSpec()
	u := unit{
		project:   spec,
		title:     spec.GetId(),
		commit:    p.GetCommitId(),
		fetched:   begin.GetFetched(),
		namespace: orDefault(spec.GetDefaultNamespace(), defaultNamespace),
		id:        strconv.FormatInt(agentID, 10) + "-" + strconv.FormatInt(p.GetProjectId(), 10),
		account:   spec.GetServiceAccount(),
		interval:  duration(spec.GetDrift().GetInterval(), defaultInterval),
		watch:     spec.GetDrift().GetWatch(),
	}
	u.options = apply.Options{
		ReconcileTimeout: duration(spec.GetReconcileTimeout(), defaultTimeout),
		PruneTimeout:     duration(spec.GetPruneTimeout(), defaultTimeout),
		KeepGoing:        spec.GetOnError() == "continue",
	}
	if set, ok := spec.GetPruneOneof().(*agentcfg.ManifestProjectCF_Prune); ok {
		u.options.NoPrune = !set.Prune
	}
	var known [3]bool
	u.options.DryRun, known[0] = dryRuns[spec.GetDryRunStrategy()]
	u.options.Propagation, known[1] = propagations[spec.GetPrunePropagationPolicy()]
	u.options.Policy, known[2] = policies[spec.GetInventoryPolicy()]
	if known != [3]bool{true, true, true} {
		return unit{}, errors.New("dry_run_strategy, prune_propagation_policy or inventory_policy has a value that the engine does not know")
	}
	return u, nil
}

func chartUnit(agentID int64, begin *engine.Begin) unit {
	spec := begin.GetChart().GetSpec()
	namespace := orDefault(spec.GetNamespace(), defaultNamespace)
	sum := sha256.Sum256([]byte(namespace + "/" + spec.GetReleaseName()))
	return unit{
		chart:     spec,
		title:     spec.GetReleaseName(),
		commit:    begin.GetChart().GetCommitId(),
		namespace: namespace,
		// A label's value has 63 characters at most, which agent id, namespace and release name together may exceed.
		id:       fmt.Sprintf("%d-chart-%x", agentID, sum[:8]),
		interval: defaultInterval,
		options: apply.Options{
			Propagation:      metav1.DeletePropagationForeground,
			ReconcileTimeout: defaultTimeout,
			PruneTimeout:     defaultTimeout,
		},
	}
}

var (
	dryRuns = map[string]common.DryRunStrategy{
		"": common.DryRunNone, "none": common.DryRunNone, "client": common.DryRunClient, "server": common.DryRunServer,
	}
	propagations = map[string]metav1.DeletionPropagation{
		"": metav1.DeletePropagationForeground, "foreground": metav1.DeletePropagationForeground,
		"background": metav1.DeletePropagationBackground, "orphan": metav1.DeletePropagationOrphan,
	}
	policies = map[string]inventory.Policy{
		"": inventory.PolicyMustMatch, "must_match": inventory.PolicyMustMatch,
		"adopt_if_no_inventory": inventory.PolicyAdoptIfNoInventory, "adopt_all": inventory.PolicyAdoptAll,
	}
)

func orDefault(s, byDefault string) string {
	if s == "" {
		return byDefault
	}
	return s
}

// duration tells an explicit zero from a missing value.
func duration(d *durationpb.Duration, byDefault time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	return max(d.AsDuration(), 0)
}
