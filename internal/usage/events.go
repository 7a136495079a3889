package usage

import (
	"cmp"
	"slices"
	"strings"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
)

// usedBy is the event that a user reached a cluster.
type usedBy struct {
	UserID int64 `json:"user_id"`
	// ProjectID is the agent's configuration project.
	ProjectID int64 `json:"project_id"`
}

// registration is the event that an agent registered.
type registration struct {
	ProjectID         int64     `json:"project_id"`
	AgentVersion      string    `json:"agent_version"`
	Architecture      string    `json:"architecture"`
	AgentID           int64     `json:"agent_id"`
	KubernetesVersion string    `json:"kubernetes_version"`
	Telemetry         telemetry `json:"extra_telemetry_data"`
}

// telemetry is what GitLab wants of the data that an installation adds.
type telemetry struct {
	InstallationMethod string `json:"installation_method,omitempty"`
	HelmChartVersion   string `json:"helm_chart_version,omitempty"`
}

func newRegistration(agent backend.Agent, meta *entity.AgentMeta) registration {
	kube, extra := meta.GetKubernetesVersion(), meta.GetExtraTelemetryData()
	// The platform is for example linux/amd64.
	_, architecture, _ := strings.Cut(kube.GetPlatform(), "/")
	return registration{
		ProjectID: agent.Project.ID, AgentID: agent.ID, AgentVersion: meta.GetVersion(), Architecture: architecture,
		KubernetesVersion: kube.GetGitVersion(),
		Telemetry:         telemetry{InstallationMethod: extra["installation_method"], HelmChartVersion: extra["helm_chart_version"]},
	}
}

// events are sets: an event that repeats before it is sent is sent once.
type events struct {
	uses          map[string]map[usedBy]struct{} // by name
	registrations map[registration]struct{}
}

func newEvents() events {
	return events{uses: map[string]map[usedBy]struct{}{}, registrations: map[registration]struct{}{}}
}

func (e events) empty() bool { return len(e.uses) == 0 && len(e.registrations) == 0 }

func (e events) use(name string, u usedBy, limit int) int {
	if e.uses[name] == nil {
		e.uses[name] = map[usedBy]struct{}{}
	}
	return insert(e.uses[name], u, limit)
}

func (e events) register(r registration, limit int) int { return insert(e.registrations, r, limit) }

// add takes in another report.
func (e events) add(other events, limit int) int {
	dropped := 0
	for name, set := range other.uses {
		for u := range set {
			dropped += e.use(name, u, limit)
		}
	}
	for r := range other.registrations {
		dropped += e.register(r, limit)
	}
	return dropped
}

// lists are the events as they travel, in an order of their own.
func (e events) lists() map[string]any {
	out := map[string]any{}
	for name, set := range e.uses {
		list := make([]usedBy, 0, len(set))
		for u := range set {
			list = append(list, u)
		}
		slices.SortFunc(list, func(a, b usedBy) int {
			return cmp.Or(cmp.Compare(a.ProjectID, b.ProjectID), cmp.Compare(a.UserID, b.UserID))
		})
		out[name] = list
	}
	if len(e.registrations) > 0 {
		list := make([]registration, 0, len(e.registrations))
		for r := range e.registrations {
			list = append(list, r)
		}
		slices.SortFunc(list, func(a, b registration) int {
			return cmp.Or(cmp.Compare(a.AgentID, b.AgentID), cmp.Compare(a.AgentVersion, b.AgentVersion),
				cmp.Compare(a.KubernetesVersion, b.KubernetesVersion), cmp.Compare(a.Architecture, b.Architecture))
		})
		out[registerEvent] = list
	}
	return out
}
