package protoyaml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
)

func TestDecode_Values(t *testing.T) {
	tests := []struct {
		name, yaml, want string
	}{
		{"empty", "", `{}`},
		{"only comments", "# nothing\n\n# here\n", `{}`},
		{"null", "null\n", `{}`},
		{"empty document", "---\n", `{}`},
		{"separator at the end", "---\nci_access: {}\n---\n", `{"ci_access": {}}`},
		{"more documents without anything", "ci_access: {}\n...\n---\n# nothing\n---\nnull\n", `{"ci_access": {}}`},
		{"null section", "ci_access:\n", `{}`},
		{"empty message is present", "ci_access: {}", `{"ci_access": {}}`},
		{
			"ci_access", "ci_access:\n  projects:\n  - id: a/b\n    access_as:\n      ci_job: {}\n    environments: [prod, 'review/*']\n",
			`{"ci_access": {"projects": [{"id": "a/b", "access_as": {"ci_job": {}}, "environments": ["prod", "review/*"]}]}}`,
		},
		{"enum and optional enum", "observability: {logging: {level: debug, grpc_level: info}}", `{"observability": {"logging": {"level": "debug", "grpc_level": "info"}}}`},
		{"optional bool at zero", "remote_development: {network_policy: {enabled: false}}", `{"remote_development": {"network_policy": {"enabled": false}}}`},
		{"YAML 1.1 words", "remote_development: {enabled: yes, network_policy: {enabled: Off}}", `{"remote_development": {"enabled": true, "network_policy": {"enabled": false}}}`},
		{"durations", "remote_development: {partial_sync_interval: 300s, full_sync_interval: '1.5s'}", `{"remote_development": {"partial_sync_interval": "300s", "full_sync_interval": "1.5s"}}`},
		{"unquoted date is a string", "ci_access: {projects: [{id: 2020-01-01}]}", `{"ci_access": {"projects": [{"id": "2020-01-01"}]}}`},
		{"int64 as number and string", "remote_development: {workspaces_quota: -1, workspaces_per_user_quota: '7'}", `{"remote_development": {"workspaces_quota": "-1", "workspaces_per_user_quota": "7"}}`},
		{"integral float", "remote_development: {workspaces_quota: 1e3}", `{"remote_development": {"workspaces_quota": "1000"}}`},
		{"map", "remote_development: {labels: {a: b, 'c/d': 'e', 1: f}}", `{"remote_development": {"labels": {"a": "b", "c/d": "e", "1": "f"}}}`},
		{"oneof member null is absent", "user_access: {access_as: {agent: , user: {}}}", `{"user_access": {"access_as": {"user": {}}}}`},
		{
			"anchor, alias and merge key", `
user_access: {projects: [&p {id: x}, *p]}
ci_access:
  projects:
  - &base {id: a, default_namespace: n}
  - <<: *base
    id: b
  - <<: [{id: c}, *base]
`,
			`{"user_access": {"projects": [{"id": "x"}, {"id": "x"}]}, "ci_access": {"projects": [{"id": "a", "default_namespace": "n"},
			{"id": "b", "default_namespace": "n"}, {"id": "c", "default_namespace": "n"}]}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want, got agentcfg.ConfigurationFile
			if err := protojson.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if _, err := Decode([]byte(tt.yaml), &got, Options{}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&want, &got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecode_Mistakes(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       []string
	}{
		{"unknown key", "ci_access:\n  projects:\n  - idd: x\n", []string{`ci_access.projects[0].idd (line 3): unknown key; did you mean "id"?`}},
		{"camel case", "ciAccess: {}", []string{`ciAccess (line 1): unknown key; did you mean "ci_access"?`}},
		{"nothing like it", "gitlab: {}", []string{`gitlab (line 1): unknown key`}},
		{"strange key", "\"a\\nb c\": 1", []string{`"a\nb c" (line 1): unknown key`}},
		{"number for string", "ci_access: {projects: [{id: 7}]}", []string{`ci_access.projects[0].id (line 1): must be a string, not a number; write it in quotes`}},
		{"bool for string", "ci_access: {projects: [{id: true}]}", []string{`ci_access.projects[0].id (line 1): must be a string, not true or false; write it in quotes`}},
		{"list for string", "ci_access: {projects: [{id: [a]}]}", []string{`ci_access.projects[0].id (line 1): must be a string, not a list`}},
		{"string for bool", "remote_development: {enabled: 'yes'}", []string{`remote_development.enabled (line 1): must be true or false, not a string`}},
		{"mapping for list", "ci_access: {projects: {id: x}}", []string{`ci_access.projects (line 1): must be a list, not a mapping`}},
		{"scalar for mapping", "ci_access: none", []string{`ci_access (line 1): must be a mapping of keys to values, not a string`}},
		{"list for map", "remote_development: {labels: [a]}", []string{`remote_development.labels (line 1): must be a mapping of keys to values, not a list`}},
		{"number in map", "remote_development: {labels: {a: 1}}", []string{`remote_development.labels["a"] (line 1): must be a string, not a number; write it in quotes`}},
		{"null in map", "remote_development:\n  labels:\n    a:\n", []string{`remote_development.labels["a"] (line 3): must not be empty`}},
		{"null in list", "ci_access:\n  projects:\n  -\n", []string{`ci_access.projects[0] (line 3): must not be empty`}},
		{"enum", "observability: {logging: {level: loud}}", []string{`observability.logging.level (line 1): must be one of info, debug, warn, error`}},
		{"enum by number", "observability: {logging: {level: 1}}", []string{`observability.logging.level (line 1): must be one of info, debug, warn, error`}},
		{"minutes", "remote_development: {full_sync_interval: 5m}", []string{`remote_development.full_sync_interval (line 1): must be a duration in seconds such as "300s" or "1.5s"`}},
		{"duration without unit", "remote_development: {full_sync_interval: 5}", []string{`remote_development.full_sync_interval (line 1): must be a duration in seconds such as "300s" or "1.5s"`}},
		{"duration out of range", "remote_development: {full_sync_interval: 999999999999s}", []string{`remote_development.full_sync_interval (line 1): must be a duration in seconds such as "300s" or "1.5s"`}},
		{"fraction for integer", "remote_development: {workspaces_quota: 1.5}", []string{`remote_development.workspaces_quota (line 1): must be a whole number, not a number`}},
		{"text for integer", "remote_development: {workspaces_quota: ten}", []string{`remote_development.workspaces_quota (line 1): must be a whole number, not a string`}},
		{"out of range", "gitops: {charts: [{max_history: 3000000000}]}", []string{`gitops.charts[0].max_history (line 1): must be a whole number from -2147483648 to 2147483647`}},
		{
			"two members of a oneof", "user_access:\n  access_as:\n    agent: {}\n    user: {}\n",
			[]string{`user_access.access_as.user (line 4): only one of agent, user may be set`},
		},
		{"duplicate key", "ci_access: {}\nflux: {}\nci_access: {}\n", []string{`ci_access (line 3): duplicate key; it stands on line 1 already`}},
		{"root is a list", "- a\n", []string{`line 1: must be a mapping of keys to values, not a list`}},
		{"root is a string", "hello\n", []string{`line 1: must be a mapping of keys to values, not a string`}},
		{"two documents", "flux: {}\n---\nflux: {}\n", []string{`line 3: a second document starts here; the file must hold only one`}},
		{"two documents with an empty one between", "flux: {}\n---\n---\nflux: {}\n", []string{`line 4: a second document starts here; the file must hold only one`}},
		{"a broken document after an empty one", "flux: {}\n---\n---\nflux: {\n", []string{`line 4: did not find expected node content`}},
		{"not YAML", "a: [b\n", []string{`line 1: did not find expected ',' or ']'`}},
		{"unknown anchor", "flux: *x\n", []string{`unknown anchor 'x' referenced`}},
		{"mapping as key", "{a: b}: c\n", []string{`line 1: a key must be a plain name`}},
		{"merge of a string", "flux: {<<: a}\n", []string{`flux (line 1): the value of "<<" must be a mapping or a list of mappings`}},
		{"unknown key by merge", "ci_access:\n  projects:\n  - &a {id: x, nope: y}\nflux:\n  <<: *a\n", []string{
			`ci_access.projects[0].nope (line 3): unknown key`, `flux.id (line 3): unknown key`, `flux.nope (line 3): unknown key`,
		}},
		{"several", "flux: {a: b}\nobservability: 1\ncilium: {hubble_relay_address: []}\n", []string{
			`flux.a (line 1): unknown key`,
			`observability (line 2): must be a mapping of keys to values, not a number`,
			`cilium.hubble_relay_address (line 3): must be a string, not a list`,
		}},
		{"binary tag", "flux: {webhook_receiver_url: !!binary aGk=}", []string{`flux.webhook_receiver_url (line 1): must be a string, not a value with a tag; write it in quotes`}},
		{"made-up tag", "remote_development: {enabled: !yes true}", []string{`remote_development.enabled (line 1): must be true or false, not a value with a tag`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode([]byte(tt.yaml), &agentcfg.ConfigurationFile{}, Options{})
			var mistakes Mistakes
			if !errors.As(err, &mistakes) {
				t.Fatalf("got %v, want Mistakes", err)
			}
			var got []string
			for _, m := range mistakes {
				got = append(got, m.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecode_ManyMistakesAreBounded(t *testing.T) {
	var y strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&y, "k%d: 1\n", i)
	}
	_, err := Decode([]byte(y.String()), &agentcfg.ConfigurationFile{}, Options{})
	var mistakes Mistakes
	if !errors.As(err, &mistakes) || len(mistakes) != maxMistakes+1 {
		t.Fatalf("got %d mistakes, want %d and a note", len(mistakes), maxMistakes)
	}
	if got := mistakes[maxMistakes].String(); got != "too many mistakes; there may be more" {
		t.Errorf("last mistake is %q", got)
	}
}

func TestDecode_UnknownAsWarnings(t *testing.T) {
	y := "agent:\n  lisen: {}\nnew_section: {a: {b: c}}\nstandalone:\n  projects:\n  - nme: x\n"
	opt := Options{WarnUnknown: true, Strict: []string{"standalone"}}
	res, err := Decode([]byte(y), &kascfg.ConfigurationFile{}, opt)
	if err == nil || err.Error() != `standalone.projects[0].nme (line 6): unknown key` {
		t.Errorf("got error %v", err)
	}
	want := []Mistake{
		{Path: "agent.lisen", Line: 2, Msg: `unknown key; did you mean "listen"?`},
		{Path: "new_section", Line: 3, Msg: "unknown key"},
	}
	if diff := cmp.Diff(want, res.Warnings); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDecode_FreeValues(t *testing.T) {
	y := "autoflow:\n  s: text\n  n: 1.5\n  b: true\n  z: null\n  d: 2020-01-01\n  l: [1, {a: b}]\n"
	want := `{"autoflow": {"s": "text", "n": 1.5, "b": true, "z": null, "d": "2020-01-01", "l": [1, {"a": "b"}]}}`
	var got, wanted kascfg.ConfigurationFile
	if err := protojson.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode([]byte(y), &got, Options{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&wanted, &got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, bad := range []string{"autoflow: [a]", "autoflow: text", "autoflow: {a: .inf}", "autoflow: {a: !!bool x}"} {
		if _, err := Decode([]byte(bad), &kascfg.ConfigurationFile{}, Options{}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestDecode_Timestamp(t *testing.T) {
	var got kascfg.ConfigurationFile
	for _, y := range []string{"2030-01-31T12:00:00Z", "'2030-01-31T13:00:00+01:00'"} {
		if _, err := Decode([]byte("standalone: {jobs: [{expires_at: "+y+"}]}"), &got, Options{}); err != nil {
			t.Fatal(err)
		}
		if want := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC); !got.Standalone.Jobs[0].ExpiresAt.AsTime().Equal(want) {
			t.Errorf("%s: got %v", y, got.Standalone.Jobs[0].ExpiresAt.AsTime())
		}
		proto.Reset(&got)
	}
	if _, err := Decode([]byte("standalone: {jobs: [{expires_at: 2030-01-31}]}"), &got, Options{}); err == nil {
		t.Error("a date without a time is accepted")
	}
}

// bombs are small files that aliases would grow without end.
func bombs() map[string]string {
	var laughs strings.Builder
	laughs.WriteString("autoflow:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		prev := fmt.Sprintf("*a%d", i-1)
		fmt.Fprintf(&laughs, "  a%d: &a%d [%s]\n", i, i, strings.Repeat(prev+",", 8)+prev)
	}
	return map[string]string{
		"laughs":             laughs.String(),
		"alias of itself":    "autoflow: &x {a: *x, b: *x}",
		"merge of itself":    "autoflow: &x {<<: [*x, *x]}",
		"merge of itself 2":  "agent: &x\n  <<: [*x, *x]\n",
		"list of itself":     "autoflow: {a: &x [*x, *x, *x]}",
		"deep":               "autoflow: " + strings.Repeat("{a: ", 5000) + strings.Repeat("}", 5000),
		"long list, aliased": "autoflow: {a: &x [" + strings.Repeat("1,", 10_000) + "], b: [" + strings.Repeat("*x,", 1000) + "]}",
	}
}

func TestDecode_BombsEnd(t *testing.T) {
	for name, y := range bombs() {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Decode([]byte(y), &kascfg.ConfigurationFile{}, Options{WarnUnknown: true})
			if err == nil {
				t.Error("accepted")
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestPositions(t *testing.T) {
	y := "ci_access:\n  projects:\n  - id: a\n  - id: b\n    access_as:\n      impersonate:\n        username: u\n"
	res, err := Decode([]byte(y), &agentcfg.ConfigurationFile{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"":                              0,
		"ci_access.projects[0].id":      3,
		"ci_access.projects[1]":         4,
		"ci_access.projects[1].missing": 4,
		"ci_access.projects[1].access_as.impersonate.username": 7,
		"ci_access.groups":      1,
		"elsewhere[3].a[\"b\"]": 0,
	} {
		if got := res.Positions.Line(path); got != want {
			t.Errorf("%s: line %d, want %d", path, got, want)
		}
	}
	if got := (Positions{}).Line("a.b"); got != 0 {
		t.Errorf("line %d of an unknown path", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, y := range bombs() {
		f.Add([]byte(y))
	}
	for _, y := range []string{
		"", "null", "---\n---\n", "ci_access: {projects: [{id: a, access_as: {ci_job: {}}}]}", "<<: {flux: {}}", "a: &a *a",
		"observability: {logging: {level: debug}}", "remote_development: {labels: {? [a] : b}}", "\xff\xfe", "a: !!int 1_0", "!!binary x",
		"remote_development: {workspaces_quota: !!int x, full_sync_interval: '-1s'}", "? a\n: b", "%YAML 1.2\n---\nflux:\n...\n",
	} {
		f.Add([]byte(y))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 16<<10 {
			return
		}
		var m agentcfg.ConfigurationFile
		if _, err := Decode(data, &m, Options{}); err != nil {
			var mistakes Mistakes
			if !errors.As(err, &mistakes) || len(mistakes) == 0 || strings.Contains(err.Error(), "\n") {
				t.Fatalf("not a list of one-line mistakes: %q", err)
			}
			return
		}
		out, err := Encode(&m)
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		var again agentcfg.ConfigurationFile
		if _, err = Decode(out, &again, Options{}); err != nil {
			t.Fatalf("decode what was encoded: %v\n%s", err, out)
		}
	})
}
