package rules

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
)

func check(t *testing.T, m proto.Message, want ...string) {
	t.Helper()
	var got []string
	for _, v := range Check(m) {
		got = append(got, v.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCheck_OneofRequired(t *testing.T) {
	as := &agentcfg.CiAccessAsCF{}
	file := &agentcfg.ConfigurationFile{CiAccess: &agentcfg.CiAccessCF{Projects: []*agentcfg.CiAccessProjectCF{{Id: "a"}, {Id: "b", AccessAs: as}}}}
	check(t, file, "ci_access.projects[1].access_as: exactly one of agent, impersonate, ci_job must be set")
	check(t, as, "exactly one of agent, impersonate, ci_job must be set")
	as.As = &agentcfg.CiAccessAsCF_CiJob{CiJob: &agentcfg.CiAccessAsCiJobCF{}}
	check(t, file)
}

func TestCheck_Strings(t *testing.T) {
	check(t, &agentcfg.ExtraKeyValCF{}, "key: must not be empty", "val: must have at least 1 item")
	check(t, &agentcfg.ExtraKeyValCF{Key: "k", Val: []string{"a", ""}}, "val[1]: must not be empty")
	// Unset optional fields and oneof members are not checked, set ones are.
	check(t, &agentcfg.ManifestProjectCF{})
	check(t, &agentcfg.ManifestProjectCF{Id: proto.String("")}, "id: must not be empty")
	check(t, &agentcfg.GitRefCF{Ref: &agentcfg.GitRefCF_Branch{}}, "branch: must not be empty")
	check(t, &agentcfg.GitRefCF{Ref: &agentcfg.GitRefCF_Branch{Branch: "b"}})
	check(t, &kascfg.StandaloneAgentCF{Id: 1, Name: "A", Project: "p", TokenSha256: []string{"ab"}},
		"name: must match ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "token_sha256[0]: must have at least 64 bytes")
}

func TestCheck_In(t *testing.T) {
	check(t, &agentcfg.ManifestProjectCF{DryRunStrategy: ""})
	check(t, &agentcfg.ManifestProjectCF{DryRunStrategy: "maybe"}, `dry_run_strategy: must be one of "none", "client", "server"`)
	check(t, &kascfg.StandaloneEnvironmentCF{Name: "n", Slug: "s"}, `tier: must be one of "production", "staging", "testing", "development", "other"`)
	check(t, &kascfg.ListenAgentCF{Network: proto.String("")}, `network: must be one of "tcp", "tcp4", "tcp6", "unix"`)
}

func TestCheck_Durations(t *testing.T) {
	agent := func(d time.Duration) *kascfg.AgentCF {
		return &kascfg.AgentCF{InfoCacheTtl: durationpb.New(d), InfoCacheErrorTtl: durationpb.New(d)}
	}
	check(t, &kascfg.AgentCF{})
	check(t, agent(time.Second))
	check(t, agent(0), "info_cache_error_ttl: must be greater than zero")
	check(t, agent(-time.Nanosecond), "info_cache_ttl: must not be negative", "info_cache_error_ttl: must be greater than zero")
}

func TestCheck_Numbers(t *testing.T) {
	check(t, &kascfg.TokenBucketRateLimitCF{RefillRatePerSecond: 0.5})
	check(t, &kascfg.TokenBucketRateLimitCF{RefillRatePerSecond: -0.5}, "refill_rate_per_second: must not be negative")
	check(t, &kascfg.StandaloneUserCF{Username: "u"}, "id: must be greater than zero")
	check(t, &kascfg.StandaloneUserCF{Username: "u", Id: 1})
	server := &kascfg.RedisCF_Server{Server: &kascfg.RedisServerCF{Address: "a"}}
	check(t, &kascfg.RedisCF{RedisConfig: server, DatabaseIndex: -1}, "database_index: must not be negative")
}

func TestCheck_AbsoluteURI(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://gitlab.test": true, "https://gitlab.test/sub": true, "unix:///run/x": true,
		"gitlab.test": false, "gitlab.test:80": false, "/path": false, "http://": false, "https://a b": false, "%": false,
	} {
		got := Check(&kascfg.GitLabCF{Address: address, AuthenticationSecretFile: "f"})
		if (len(got) == 0) != ok {
			t.Errorf("%q: %v", address, got)
		}
	}
	check(t, &kascfg.GitLabCF{}) // what is not there is not checked
	empty := ""
	check(t, &kascfg.GitLabCF{ExternalUrl: &empty}, "external_url: must not be empty")
}

func TestCheck_RequiredMessage(t *testing.T) {
	check(t, &kascfg.ApiCF{}, "listen: must be present")
	check(t, &kascfg.ApiCF{Listen: &kascfg.ListenApiCF{}}, "listen.authentication_secret_file: must not be empty")
}

func TestValidate(t *testing.T) {
	if err := Validate(&kascfg.ConfigurationFile{}); err != nil {
		t.Errorf("empty file: %v", err)
	}
	err := Validate(&agentcfg.ExtraKeyValCF{})
	if err == nil || err.Error() != "key: must not be empty; val: must have at least 1 item" {
		t.Errorf("got %v", err)
	}
}
