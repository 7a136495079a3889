package charts

import "testing"

func TestAgent_Refused(t *testing.T) {
	chart := New(t, cluster, agentChart)
	const receptive = "not supported yet: agents that kas connects to (receptive agents)"
	for name, tc := range map[string]struct {
		values string
		want   []string
	}{
		"no token":              {"{}", []string{"an agent token is required", "config.secretName"}},
		"empty token":           {"config: {token: ''}", []string{"an agent token is required"}},
		"two tokens":            {"config: {token: a, tokenFile: /b}", []string{"config.tokenFile excludes"}},
		"no kas":                {"config: {token: a, kasAddress: ''}", []string{"config.kasAddress is required"}},
		"kas by https":          {"config: {token: a, kasAddress: 'https://kas'}", []string{"'/config/kasAddress'"}},
		"header":                {"config: {token: a, kasHeaders: [nothing]}", []string{"'/config/kasHeaders/0'"}},
		"relative token file":   {"config: {tokenFile: a}", []string{"'/config/tokenFile'"}},
		"misspelt":              {"config: {token: a}\nreplcas: 3", []string{"'replcas' not allowed"}},
		"misspelt inside":       {"config: {token: a, kasAdress: b}", []string{"at '/config'", "'kasAdress' not allowed"}},
		"misspelt deep":         {"config: {token: a, observability: {tls: {enable: true}}}", []string{"'enable' not allowed"}},
		"text for a number":     {"config: {token: a}\nreplicas: two", []string{"'/replicas'", "got string, want integer"}},
		"number for a text":     {"config: {token: 1234}", []string{"'/config/token'", "got number"}},
		"text for a switch":     {"config: {token: a}\nrbac: {create: 'false'}", []string{"'/rbac/create'", "got string"}},
		"text for a list":       {"config: {token: a}\nextraArgs: --log-format=json", []string{"'/extraArgs'", "got string"}},
		"number as annotation":  {"config: {token: a}\npodAnnotations: {prometheus.io/port: 8080}", []string{"'/podAnnotations/prometheus.io~1port'"}},
		"environment":           {"config: {token: a}\nextraEnv: [{HTTPS_PROXY: b}]", []string{"'/extraEnv/0'"}},
		"port":                  {"config: {token: a}\nnetworkPolicy: {kas: {ports: [70000]}}", []string{"'/networkPolicy/kas/ports/0'"}},
		"percentage":            {"config: {token: a}\nmaxSurge: half", []string{"'/maxSurge'"}},
		"nothing where needed":  {"config: {token: a}\nreplicas:", []string{"missing property 'replicas'"}},
		"profile":               {"config: {token: a}\nrbac: {profile: admin}", []string{"'/rbac/profile'"}},
		"profile, no namespace": {"config: {token: a}\nrbac: {profile: {namespaces: []}}", []string{"'/rbac/profile"}},
		"profile, namespace":    {"config: {token: a}\nrbac: {profile: {namespaces: [A_B]}}", []string{"'/rbac/profile"}},
		"profile and role":      {"config: {token: a}\nrbac: {profile: impersonate-only, useExistingRole: view}", []string{"rbac.useExistingRole excludes"}},
		"certificate":           {"config: {token: a, observability: {tls: {enabled: true, secret: {create: true}}}}", []string{"needs config.observability.tls.cert and .key"}},
		"monitor of nothing":    {"config: {token: a, observability: {enabled: false}}\nserviceMonitor: {enabled: true}", []string{"serviceMonitor.enabled needs"}},
		"receptive":             {"config: {receptive: {enabled: true}}", []string{"config.receptive.enabled is " + receptive}},
		"receptive key":         {"config: {token: a, api: {jwtPublicKey: b}}", []string{"config.api.jwtPublicKey", receptive}},
		"receptive TLS":         {"config: {token: a, api: {tls: {enabled: true}}}", []string{"config.api.tls", receptive}},
		"private API":           {"config: {token: a, privateApi: {tls: {enabled: true}}}", []string{"config.privateApi.tls is " + receptive}},
		"ingress":               {"config: {token: a}\ningress: {enabled: true}", []string{"ingress.enabled is " + receptive}},
		"ingress-nginx":         {"config: {token: a}\ningress-nginx: {enabled: true}", []string{"ingress-nginx.enabled is " + receptive}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chart.Refuses(t, tc.values, tc.want...)
		})
	}
}
