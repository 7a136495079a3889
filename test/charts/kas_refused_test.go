package charts

import "testing"

func TestKas_Refusals(t *testing.T) {
	c := kasChart(t)
	for name, tt := range map[string]struct {
		values string
		want   []string
	}{
		"nothing":                     {"{}", []string{"set gitlab.address", "standalone.enabled=true"}},
		"both worlds":                 {"{gitlab: {address: 'https://a'}, standalone: {enabled: true}}", []string{"not both"}},
		"standalone replicas alone":   {"{standalone: {enabled: true, repositoriesVolume: {emptyDir: {}}}}", []string{"without Redis", "must run single"}},
		"HPA without Redis":           {"{minReplicas: 1, maxReplicas: 2, standalone: {enabled: true, repositoriesVolume: {emptyDir: {}}}}", []string{"must run single"}},
		"GitLab without Redis":        {"{gitlab: {address: 'https://a'}}", []string{"needs Redis"}},
		"Redis taken away":            {"{gitlab: {address: 'https://a'}, redis: {enabled: true, server: {address: a}}, customConfig: {redis: null}}", []string{"needs Redis"}},
		"Redis nowhere":               {"{gitlab: {address: 'https://a'}, redis: {enabled: true}}", []string{"exactly one of redis.server.address"}},
		"Redis in two places":         {"{gitlab: {address: 'https://a'}, redis: {enabled: true, server: {address: a}, cluster: {addresses: [b]}}}", []string{"exactly one"}},
		"no sentinels":                {"{gitlab: {address: 'https://a'}, redis: {enabled: true, sentinel: {masterName: m}}}", []string{"redis.sentinel.addresses"}},
		"no repositories":             {"{minReplicas: 1, maxReplicas: 1, standalone: {enabled: true}}", []string{"standalone.repositoriesVolume"}},
		"fewer than least":            {"{minReplicas: 3, maxReplicas: 2, standalone: {enabled: true}}", []string{"maxReplicas must not be less"}},
		"drain cut":                   {"{drain: {shutdownGracePeriodSeconds: 290}, " + kasGitLab[1:], []string{"terminationGracePeriodSeconds is 300", "315"}},
		"TLS without a certificate":   {"{tls: {enabled: true}, " + kasGitLab[1:], []string{"tls.secretName"}},
		"gRPC through an unknown":     {"{ingress: {enabled: true, provider: traefik, grpc: {enabled: true}}, " + kasGitLab[1:], []string{"ingress.provider"}},
		"route without a gateway":     {"{gatewayRoute: {enabled: true}, " + kasGitLab[1:], []string{"gatewayRoute.parentRefs"}},
		"both routes at one host":     {"{gatewayRoute: {enabled: true, parentRefs: [{name: a}], grpc: {enabled: true, hostname: kas.example.com}}, " + kasGitLab[1:], []string{"must be another"}},
		"typo at the top":             {"{replicas: 2, " + kasGitLab[1:], []string{"replicas", "not allowed"}},
		"typo inside":                 {"{ingress: {host: a}, " + kasGitLab[1:], []string{"ingress", "host", "not allowed"}},
		"typo in a job":               {"{standalone: {jobs: [{id: 1, token: a}]}}", []string{"standalone/jobs/0"}},
		"hash that is none":           {"{standalone: {agents: [{id: 1, name: a, project: p, token_sha256: [abc]}]}}", []string{"token_sha256"}},
		"name of an agent":            {"{standalone: {agents: [{id: 1, name: A_b, project: p}]}}", []string{"standalone/agents/0/name"}},
		"text for a number":           {"{minReplicas: '2'}", []string{"minReplicas"}},
		"port out of range":           {"{service: {externalPort: 70000}}", []string{"service/externalPort"}},
		"address that is no URL":      {"{gitlab: {address: gitlab.test}}", []string{"gitlab/address"}},
		"level that kas has not":      {"{observability: {logLevel: trace}}", []string{"observability/logLevel"}},
		"path without a slash":        {"{ingress: {k8sApiPath: k8s-proxy}}", []string{"ingress/k8sApiPath"}},
		"interval without a unit":     {"{metrics: {serviceMonitor: {interval: '30'}}}", []string{"metrics/serviceMonitor/interval"}},
		"resources that are no such":  {"{resources: {limit: {}}}", []string{"resources"}},
		"share that is no percentage": {"{maxUnavailable: half}", []string{"maxUnavailable"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Refuses(t, tt.values, tt.want...)
		})
	}
}
