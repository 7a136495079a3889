package config

import (
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/rules"
)

// checkSections finds the mandatory sections that are missing, and what is missing in that of GitLab. Beside no GitLab nothing of
// it is mandatory: gitlab.external_url may stand alone.
func checkSections(f *kascfg.ConfigurationFile) []rules.Violation {
	if f.Standalone != nil {
		if f.Redis != nil && f.PrivateApi == nil {
			return []rules.Violation{{Path: "private_api", Msg: "must be present when redis is: other kas reach the agents of this one there"}}
		}
		return nil
	}
	var found []rules.Violation
	for _, s := range []struct {
		name    string
		present bool
	}{
		{"gitlab", f.Gitlab != nil},
		{"redis", f.Redis != nil},
		{"api", f.Api != nil},
		{"private_api", f.PrivateApi != nil},
	} {
		if !s.present {
			found = append(found, rules.Violation{Path: s.name, Msg: `must be present, unless there is a "standalone" section`})
		}
	}
	if f.Gitlab == nil {
		return found
	}
	for _, s := range []struct{ path, value string }{
		{"gitlab.address", f.Gitlab.Address},
		{"gitlab.authentication_secret_file", f.Gitlab.AuthenticationSecretFile},
	} {
		if s.value == "" {
			found = append(found, rules.Violation{Path: s.path, Msg: `must not be empty, unless there is a "standalone" section`})
		}
	}
	return found
}

// pemPair is a certificate and its key, as several sections have them.
type pemPair interface {
	GetCertificateFile() string
	GetKeyFile() string
}

// checkAgreement finds parts of a file with defaults that contradict each other.
func checkAgreement(f *kascfg.ConfigurationFile) []rules.Violation {
	var found []rules.Violation
	for _, p := range []struct {
		path string
		pair pemPair
	}{
		{"agent.listen", f.GetAgent().GetListen()},
		{"agent.kubernetes_api.listen", f.GetAgent().GetKubernetesApi().GetListen()},
		{"observability.listen", f.GetObservability().GetListen()},
		{"redis.tls", f.GetRedis().GetTls()},
		{"redis.sentinel.tls", f.GetRedis().GetSentinel().GetTls()},
		{"api.listen", f.GetApi().GetListen()},
		{"private_api.listen", f.GetPrivateApi().GetListen()},
	} {
		if (p.pair.GetCertificateFile() == "") != (p.pair.GetKeyFile() == "") {
			found = append(found, rules.Violation{Path: p.path, Msg: "certificate_file and key_file must be given both or not at all"})
		}
	}
	a := f.GetAgent()
	if a.GetRedisConnInfoRefresh().AsDuration() >= a.GetRedisConnInfoTtl().AsDuration() {
		found = append(found, rules.Violation{Path: "agent.redis_conn_info_refresh", Msg: "must be less than agent.redis_conn_info_ttl"})
	}
	return found
}

// findUnsupported lists the sections that have no effect in this version.
func findUnsupported(f *kascfg.ConfigurationFile) []rules.Violation {
	const later = "not supported yet, has no effect"
	a, o := f.GetAgent(), f.GetObservability()
	var found []rules.Violation
	for _, s := range []struct {
		path    string
		present bool
		msg     string
	}{
		{
			"agent.kubernetes_api.websocket_token_secret_file", a.GetKubernetesApi().GetWebsocketTokenSecretFile() != "",
			"is checked, but WebSocket tokens of browsers are not supported yet",
		},
		{"agent.receptive_agent", a.GetReceptiveAgent() != nil, later},
		{"agent.remote_development", a.GetRemoteDevelopment() != nil, later},
		{"observability.google_profiler", o.GetGoogleProfiler().GetEnabled(), later},
		{"observability.sentry", o.GetSentry().GetDsn() != "", later},
		{"observability.tracing", o.GetTracing() != nil, later},
		{"private_api", f.Redis == nil && f.PrivateApi != nil, "has no effect without redis: this kas runs single"},
		{"autoflow", f.Autoflow != nil, later},
		{"workspaces", f.GetWorkspaces().GetEnabled(), later},
		{"events_platform", f.EventsPlatform != nil, later},
	} {
		if s.present {
			found = append(found, rules.Violation{Path: s.path, Msg: s.msg})
		}
	}
	return found
}
