package server

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/fault"
)

// Bounds of what an agent may say about itself: it is kept for every pod and shown to users. Names of Kubernetes objects have 253
// bytes at most.
const (
	maxText      = 256
	maxTelemetry = 32
	maxUnknown   = 1024
	tooLong      = "%s must not be longer than %d bytes"
	tooMany      = "%s must not have more than %d entries"
)

// checkMeta refuses what is too much. Of fields that are not known here it is left out: other agents have such fields, and are not to
// be taken for disconnected because somebody has given them a lot to tell.
func checkMeta(meta *entity.AgentMeta) error {
	kube := meta.GetKubernetesVersion()
	for name, text := range map[string]string{
		"agent_meta.version":                        meta.GetVersion(),
		"agent_meta.commit_id":                      meta.GetCommitId(),
		"agent_meta.pod_namespace":                  meta.GetPodNamespace(),
		"agent_meta.pod_name":                       meta.GetPodName(),
		"agent_meta.git_ref":                        meta.GetGitRef(),
		"agent_meta.kubernetes_version.major":       kube.GetMajor(),
		"agent_meta.kubernetes_version.minor":       kube.GetMinor(),
		"agent_meta.kubernetes_version.git_version": kube.GetGitVersion(),
		"agent_meta.kubernetes_version.platform":    kube.GetPlatform(),
	} {
		if len(text) > maxText {
			return fault.New(fault.InvalidArgument, fault.Agent, tooLong, name, maxText)
		}
	}
	telemetry := meta.GetExtraTelemetryData()
	if len(telemetry) > maxTelemetry {
		return fault.New(fault.InvalidArgument, fault.Agent, tooMany, "agent_meta.extra_telemetry_data", maxTelemetry)
	}
	for key, value := range telemetry {
		if len(key) > maxText || len(value) > maxText {
			return fault.New(fault.InvalidArgument, fault.Agent, tooLong, "agent_meta.extra_telemetry_data", maxText)
		}
	}
	for _, m := range []protoreflect.Message{meta.ProtoReflect(), kube.ProtoReflect()} {
		if len(m.GetUnknown()) > maxUnknown {
			m.SetUnknown(nil)
		}
	}
	return nil
}
