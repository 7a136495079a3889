package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/protoyaml"
)

// minimal is a file with nothing but what must be there.
const minimal = `
gitlab: {address: "https://gitlab.example.com", authentication_secret_file: /etc/kas/authentication_secret}
redis: {server: {address: "localhost:6379"}}
api: {listen: {authentication_secret_file: /etc/kas/authentication_secret}}
private_api: {listen: {authentication_secret_file: /etc/kas/private_api_authentication_secret}}
`

func parse(t *testing.T, yaml string) *Config {
	t.Helper()
	c, err := parseFile([]byte(yaml), nil, "kas.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantMistakes parses a file that is wrong in just these ways.
func wantMistakes(t *testing.T, yaml string, want ...string) {
	t.Helper()
	_, err := parseFile([]byte(yaml), nil, "kas.yaml")
	var mistakes protoyaml.Mistakes
	if !errors.As(err, &mistakes) {
		t.Fatalf("got %v, want mistakes", err)
	}
	if !strings.HasPrefix(err.Error(), "configuration file kas.yaml: ") {
		t.Errorf("the error does not name the file: %v", err)
	}
	var got []string
	for _, m := range mistakes {
		got = append(got, m.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestExample_IsTheDefaults(t *testing.T) {
	example, err := Load(t.Context(), "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defaults := parse(t, minimal+"agent: {kubernetes_api: {}}\n")
	if diff := cmp.Diff(defaults.File, example.File, protocmp.Transform()); diff != "" {
		t.Errorf("(-defaults +example)\n%s", diff)
	}
	if len(example.Warnings) > 0 {
		t.Errorf("warnings: %q", example.Warnings)
	}
	// And it shows them all: each key that a default fills is written there.
	data, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	res, err := protoyaml.Decode(data, &kascfg.ConfigurationFile{}, protoyaml.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths(defaults.File.ProtoReflect(), "") {
		if _, ok := res.Positions[path]; !ok {
			t.Errorf("%s is missing in the example", path)
		}
	}
}

// paths lists the set fields of a message and the messages in it.
func paths(m protoreflect.Message, at string) []string {
	var found []string
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := strings.TrimPrefix(at+"."+string(fd.Name()), ".")
		found = append(found, path)
		if fd.Message() != nil && !fd.IsList() && fd.Message().FullName() != "google.protobuf.Duration" {
			found = append(found, paths(v.Message(), path)...)
		}
		return true
	})
	return found
}

func TestParse_OmnibusDefault(t *testing.T) {
	c, err := Load(t.Context(), filepath.Join("testdata", "omnibus-default.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %q", c.Warnings)
	}
	want := []string{
		"agent.kubernetes_api.websocket_token_secret_file (line 12): is checked, but WebSocket tokens of browsers are not supported yet",
	}
	if diff := cmp.Diff(want, c.Unsupported); diff != "" {
		t.Errorf("unsupported (-want +got)\n%s", diff)
	}
	f := c.File
	if f.Config != nil || f.Agent.Listen.Address != "localhost:8150" || f.Agent.KubernetesApi.Listen.GetNetwork() != "tcp" ||
		f.Redis.Network != "unix" || f.Redis.GetServer().Address != "/var/opt/gitlab/redis/redis.socket" || c.Standalone() {
		t.Errorf("got %v", f)
	}
}

func TestParse_OmnibusEverything(t *testing.T) {
	// As it is, but for the command, which is not there.
	data, err := os.ReadFile(filepath.Join("testdata", "omnibus-everything.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(data))
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %q", c.Warnings)
	}
	var sections []string
	for _, u := range c.Unsupported {
		path, _, _ := strings.Cut(u, " ")
		sections = append(sections, path)
	}
	want := []string{"agent.kubernetes_api.websocket_token_secret_file", "observability.sentry", "workspaces"}
	if diff := cmp.Diff(want, sections); diff != "" {
		t.Errorf("unsupported (-want +got)\n%s", diff)
	}
	f := c.File
	if f.Gitlab.GetExternalUrl() != "https://gitlab.test/sub" || len(f.Redis.GetSentinel().Addresses) != 2 || !f.Redis.GetSentinel().Tls.Enabled ||
		f.Workspaces.Listen.ShutdownGracePeriod.AsDuration().Seconds() != 200 || f.PrivateApi.Listen.GetNetwork() != "unix" {
		t.Errorf("got %v", f)
	}
}

func TestParse_UnknownKeys(t *testing.T) {
	c := parse(t, minimal+"agent:\n  lisen: {}\nfuture: 1\n")
	want := []string{`agent.lisen (line 7): unknown key; did you mean "listen"?`, "future (line 8): unknown key"}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	wantMistakes(t, "standalone:\n  repositories_dir: /r\n  agnets: []\n", `standalone.agnets (line 3): unknown key; did you mean "agents"?`)
}

func TestParse_MandatorySections(t *testing.T) {
	const must = `: must be present, unless there is a "standalone" section`
	wantMistakes(t, "", "gitlab"+must, "redis"+must, "api"+must, "private_api"+must)
	wantMistakes(t, strings.Replace(minimal, "server: {address: \"localhost:6379\"}", "", 1)+"gitaly: {}\n",
		"redis (line 3): exactly one of server, sentinel, cluster must be set")
	const empty = `: must not be empty, unless there is a "standalone" section`
	wantMistakes(t, strings.Replace(minimal, "https://gitlab.example.com", "", 1), "gitlab.address (line 2)"+empty)
	wantMistakes(t, "gitlab: {external_url: \"https://gl.test\"}\n",
		"redis"+must, "api"+must, "private_api"+must, "gitlab.address (line 1)"+empty, "gitlab.authentication_secret_file (line 1)"+empty)
	wantMistakes(t, "standalone:\n", "gitlab"+must, "redis"+must, "api"+must, "private_api"+must)
}

func TestParse_ValidatedBeforeDefaults(t *testing.T) {
	wantMistakes(t, minimal+`agent:
  listen: {network: "", max_connection_age: 0s}
  info_cache_ttl: -1s
  configuration:
    poll_period: 0s
observability:
  logging: {format: xml}
`,
		`agent.listen.network (line 7): must be one of "tcp", "tcp4", "tcp6", "unix"`,
		"agent.listen.max_connection_age (line 7): must be greater than zero",
		"agent.configuration.poll_period (line 10): must be greater than zero",
		"agent.info_cache_ttl (line 8): must not be negative",
		`observability.logging.format (line 12): must be one of "json", "console"`)
}

func TestParse_ZeroScalarsTakeDefaultsZeroDurationsStay(t *testing.T) {
	c := parse(t, minimal+`agent:
  listen: {address: "", connections_per_token_per_minute: 0}
  info_cache_ttl: 0s
  kubernetes_api: {allowed_agent_cache_ttl: 0s}
observability: {usage_reporting_period: 0s}
`)
	a := c.File.Agent
	if a.Listen.Address != "127.0.0.1:8150" || a.Listen.ConnectionsPerTokenPerMinute != 40_000 {
		t.Errorf("scalars: %v", a.Listen)
	}
	if a.InfoCacheTtl.AsDuration() != 0 || a.KubernetesApi.AllowedAgentCacheTtl.AsDuration() != 0 || c.File.Observability.UsageReportingPeriod.AsDuration() != 0 {
		t.Errorf("durations: %v", c.File)
	}
}

func TestParse_KubernetesAPI(t *testing.T) {
	for _, agent := range []string{"", "agent: {}\n", "agent: {kubernetes_api: }\n"} {
		if c := parse(t, minimal+agent); c.File.Agent.KubernetesApi != nil {
			t.Errorf("%q: there is a proxy", agent)
		}
	}
	for in, want := range map[string]string{"''": "/", "/": "/", "/k8s": "/k8s/", "/k8s/": "/k8s/"} {
		c := parse(t, minimal+"agent: {kubernetes_api: {url_path_prefix: "+in+"}}\n")
		if got := c.File.Agent.KubernetesApi.UrlPathPrefix; got != want {
			t.Errorf("prefix %s: got %s, want %s", in, got, want)
		}
	}
}

func TestParse_Agreement(t *testing.T) {
	const both = "certificate_file and key_file must be given both or not at all"
	wantMistakes(t, minimal+`agent:
  listen: {certificate_file: /c}
  kubernetes_api:
    listen: {key_file: /k}
  redis_conn_info_ttl: 240s
observability:
  listen: {key_file: /k}
`,
		"agent.listen (line 7): "+both, "agent.kubernetes_api.listen (line 9): "+both, "observability.listen (line 12): "+both,
		"agent.redis_conn_info_refresh (line 6): must be less than agent.redis_conn_info_ttl")
	wantMistakes(t, strings.ReplaceAll(minimal, "}}", ", key_file: /k}}"),
		"api.listen (line 4): "+both, "private_api.listen (line 5): "+both)
}

func TestParse_NotYAML(t *testing.T) {
	wantMistakes(t, "agent: [", "line 1: did not find expected node content")
	wantMistakes(t, "- a", "line 1: must be a mapping of keys to values, not a list")
}

func TestLoad_Refusals(t *testing.T) {
	if _, err := Load(t.Context(), filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(t.Context(), t.TempDir()); err == nil {
		t.Error("a folder is accepted")
	}
	huge := filepath.Join(t.TempDir(), "huge.yaml")
	if err := os.WriteFile(huge, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.Context(), huge); err == nil {
		t.Error("a huge file is accepted")
	}
}

func TestParse_EffectiveFileParsesToItself(t *testing.T) {
	for _, name := range []string{"example.yaml", "testdata/omnibus-default.yaml", "testdata/standalone.yaml"} {
		c, err := Load(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := protoyaml.Encode(c.File)
		if err != nil {
			t.Fatal(err)
		}
		if again := parse(t, string(out)); !proto.Equal(c.File, again.File) {
			t.Errorf("%s: %s", name, cmp.Diff(c.File, again.File, protocmp.Transform()))
		}
	}
}

// Agents are told the external URL; the password of gitlab.address is for kas alone.
func TestExternalURL_HoldsNoPassword(t *testing.T) {
	for address, want := range map[string]string{
		"https://kas:secret@gl.test/sub/": "https://gl.test/sub/",
		"https://kas@gl.test:8443":        "https://gl.test:8443",
		"https://gl.test/a%2Fb/":          "https://gl.test/a%2Fb/",
	} {
		f := &kascfg.ConfigurationFile{Gitlab: &kascfg.GitLabCF{Address: address}}
		applyDefaults(f)
		if got := f.Gitlab.GetExternalUrl(); got != want || f.Gitlab.Address != address {
			t.Errorf("%s: external URL %q, address %q", address, got, f.Gitlab.Address)
		}
	}
}
