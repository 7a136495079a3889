package agentconfig

import (
	"fmt"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/backend"
)

// ForAgent is what an agent gets of its file. User access is GitLab's alone; who the agent is and where GitLab is are always told.
func ForAgent(file *agentcfg.ConfigurationFile, agent backend.Agent, externalURL string) *agentcfg.AgentConfiguration {
	scanning := file.GetContainerScanning()
	if scanning == nil {
		scanning = file.GetStarboard()
	}
	return &agentcfg.AgentConfiguration{
		Gitops:            file.GetGitops(),
		Observability:     file.GetObservability(),
		CiAccess:          file.GetCiAccess(),
		ContainerScanning: scanning,
		RemoteDevelopment: file.GetRemoteDevelopment(),
		Flux:              file.GetFlux(),
		AgentId:           agent.ID,
		ProjectId:         agent.Project.ID,
		ProjectPath:       agent.Project.Path,
		GitlabExternalUrl: externalURL,
	}
}

// NotForwarded lists the keys of a file that neither GitLab nor any agent of today reads, so that kas can say so.
func NotForwarded(file *agentcfg.ConfigurationFile) []string {
	var keys []string
	if file.GetCilium() != nil {
		keys = append(keys, "cilium")
	}
	if file.GetStarboard() != nil && file.GetContainerScanning() != nil {
		keys = append(keys, "starboard")
	}
	return keys
}

// Unsupported lists the keys that are set in a configuration and that this agent accepts but cannot act on.
func Unsupported(cfg *agentcfg.AgentConfiguration) []string {
	var keys []string
	add := func(isSet bool, key string) {
		if isSet {
			keys = append(keys, key)
		}
	}
	for i, p := range cfg.GetGitops().GetManifestProjects() {
		add(len(p.GetResourceInclusions()) > 0, fmt.Sprintf("gitops.manifest_projects[%d].resource_inclusions", i))
		add(len(p.GetResourceExclusions()) > 0, fmt.Sprintf("gitops.manifest_projects[%d].resource_exclusions", i))
	}
	add(cfg.GetObservability().GetGoogleProfiler() != nil, "observability.google_profiler")
	add(cfg.GetContainerScanning() != nil, "container_scanning")
	add(cfg.GetRemoteDevelopment() != nil, "remote_development")
	add(cfg.GetFlux() != nil, "flux")
	access := cfg.GetCiAccess()
	for i, p := range access.GetProjects() {
		add(p.GetResourceManagement().GetEnabled(), fmt.Sprintf("ci_access.projects[%d].resource_management", i))
	}
	for i, g := range access.GetGroups() {
		add(g.GetResourceManagement().GetEnabled(), fmt.Sprintf("ci_access.groups[%d].resource_management", i))
	}
	add(access.GetInstance().GetResourceManagement().GetEnabled(), "ci_access.instance.resource_management")
	return keys
}
