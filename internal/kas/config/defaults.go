package config

import (
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/kascfg"
)

// applyDefaults fills in what the file leaves open. A scalar at zero counts as left open; a duration only when it is absent,
// because zero is a value of durations: it switches things off. example.yaml shows all of it.
func applyDefaults(f *kascfg.ConfigurationFile) {
	defaultAgent(section(&f.Agent))
	defaultObservability(section(&f.Observability))
	if f.Standalone == nil {
		section(&f.Gitaly)
	}
	if g := f.Gitlab; g != nil {
		rateLimit(&g.ApiRateLimit, 50, 250)
		if g.ExternalUrl == nil && g.Address != "" {
			external := withoutUser(g.Address)
			g.ExternalUrl = &external
		}
	}
	if g := f.Gitaly; g != nil {
		rateLimit(&g.GlobalApiRateLimit, 30, 70)
		rateLimit(&g.PerServerApiRateLimit, 15, 40)
	}
	if r := f.Redis; r != nil {
		duration(&r.DialTimeout, 5*time.Second)
		duration(&r.WriteTimeout, 3*time.Second)
		scalar(&r.KeyPrefix, "gitlab-kas")
		scalar(&r.Network, "tcp")
	}
	if l := f.GetApi().GetListen(); l != nil {
		optional(&l.Network, "tcp")
		scalar(&l.Address, "127.0.0.1:8153")
		duration(&l.MaxConnectionAge, 2*time.Hour)
		duration(&l.ListenGracePeriod, 5*time.Second)
	}
	if l := f.GetPrivateApi().GetListen(); l != nil {
		optional(&l.Network, "tcp")
		scalar(&l.Address, "127.0.0.1:8155")
		duration(&l.MaxConnectionAge, 2*time.Hour)
		duration(&l.ListenGracePeriod, 5*time.Second)
	}
	for _, p := range f.GetStandalone().GetProjects() {
		scalar(&p.Visibility, "private")
	}
}

// withoutUser leaves out what opens a proxy in front of GitLab: agents are told the external URL.
func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

func defaultAgent(a *kascfg.AgentCF) {
	l := section(&a.Listen)
	optional(&l.Network, "tcp")
	scalar(&l.Address, "127.0.0.1:8150")
	scalar(&l.ConnectionsPerTokenPerMinute, 40_000)
	duration(&l.MaxConnectionAge, 2*time.Hour)
	duration(&l.ListenGracePeriod, 5*time.Second)

	c := section(&a.Configuration)
	duration(&c.PollPeriod, 5*time.Minute)
	scalar(&c.MaxConfigurationFileSize, 128<<10)

	g := section(&a.Gitops)
	duration(&g.PollPeriod, 5*time.Minute)
	duration(&g.ProjectInfoCacheTtl, 5*time.Minute)
	duration(&g.ProjectInfoCacheErrorTtl, time.Minute)
	scalar(&g.MaxManifestFileSize, 5<<20)
	scalar(&g.MaxTotalManifestFileSize, 20<<20)
	scalar(&g.MaxNumberOfPaths, 100)
	scalar(&g.MaxNumberOfFiles, 1000)

	duration(&a.InfoCacheTtl, 5*time.Minute)
	duration(&a.InfoCacheErrorTtl, time.Minute)
	duration(&a.RedisConnInfoTtl, 5*time.Minute)
	duration(&a.RedisConnInfoRefresh, 4*time.Minute)
	duration(&a.RedisConnInfoGc, 10*time.Minute)
	if k := a.KubernetesApi; k != nil {
		defaultKubernetesAPI(k)
	}
	if r := a.ReceptiveAgent; r != nil {
		duration(&r.PollPeriod, 5*time.Minute)
	}
}

func defaultKubernetesAPI(k *kascfg.KubernetesApiCF) {
	l := section(&k.Listen)
	optional(&l.Network, "tcp")
	scalar(&l.Address, "0.0.0.0:8154")
	duration(&l.ListenGracePeriod, 5*time.Second)
	duration(&l.ShutdownGracePeriod, time.Hour)
	if !strings.HasSuffix(k.UrlPathPrefix, "/") {
		k.UrlPathPrefix += "/"
	}
	duration(&k.AllowedAgentCacheTtl, time.Minute)
	duration(&k.AllowedAgentCacheErrorTtl, 10*time.Second)
}

func defaultObservability(o *kascfg.ObservabilityCF) {
	duration(&o.UsageReportingPeriod, time.Minute)
	duration(&o.EventReportingPeriod, time.Minute)
	l := section(&o.Listen)
	optional(&l.Network, "tcp")
	scalar(&l.Address, "127.0.0.1:8151")
	scalar(&section(&o.Prometheus).UrlPath, "/metrics")
	log := section(&o.Logging)
	optional(&log.GrpcLevel, kascfg.LogLevelEnum_error)
	scalar(&log.Format, "json")
	scalar(&section(&o.LivenessProbe).UrlPath, "/liveness")
	scalar(&section(&o.ReadinessProbe).UrlPath, "/readiness")
}

func rateLimit(l **kascfg.TokenBucketRateLimitCF, refill float64, bucket uint32) {
	limit := section(l)
	scalar(&limit.RefillRatePerSecond, refill)
	scalar(&limit.BucketSize, bucket)
}

func scalar[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func optional[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func duration(field **durationpb.Duration, value time.Duration) {
	if *field == nil {
		*field = durationpb.New(value)
	}
}

// section makes sure that a message is there.
func section[T any](field **T) *T {
	if *field == nil {
		*field = new(T)
	}
	return *field
}
