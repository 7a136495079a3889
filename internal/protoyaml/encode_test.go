package protoyaml

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
)

func TestEncode_RoundTrip(t *testing.T) {
	in := `ci_access:
  projects:
    - id: a/b
      access_as:
        ci_job: {}
      environments:
        - "true"
        - "10"
        - |-
          two
          lines
container_scanning:
  delete_report_artifact: false
remote_development:
  partial_sync_interval: 300s
  full_sync_interval: 1.500s
  workspaces_quota: -1
  labels:
    a: "yes"
    b: "2020-01-01"
`
	var m, again agentcfg.ConfigurationFile
	if _, err := Decode([]byte(in), &m, Options{}); err != nil {
		t.Fatal(err)
	}
	out, err := Encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, string(out)); diff != "" {
		t.Errorf("text (-want +got)\n%s", diff)
	}
	if _, err = Decode(out, &again, Options{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&m, &again, protocmp.Transform()); diff != "" {
		t.Errorf("message (-want +got)\n%s", diff)
	}
}

func TestEncode_MasksSecrets(t *testing.T) {
	in := `
gitlab: {address: "https://user:canary@gitlab.test/sub", authentication_secret_file: /s/api}
observability: {sentry: {dsn: "https://canary@sentry.test/1", environment: "a@b"}}
config: {command: "fetch https://u:canary@host/x"}
autoflow: {temporal: {api_key: canary, pass: [ok], Password: {inner_token: canary}, token: 7, secret_key_file: /s/k}}
standalone: {jobs: [{token_sha256: "00ff"}]}
`
	want := `gitlab:
  address: https://masked@gitlab.test/sub
  authentication_secret_file: /s/api
observability:
  sentry:
    dsn: https://masked@sentry.test/1
    environment: a@b
autoflow:
  temporal:
    Password:
      inner_token: masked
    api_key: masked
    pass:
      - ok
    secret_key_file: /s/k
    token: masked
config:
  command: fetch https://masked@host/x
standalone:
  jobs:
    - token_sha256: 00ff
`
	var m kascfg.ConfigurationFile
	if _, err := Decode([]byte(in), &m, Options{}); err != nil {
		t.Fatal(err)
	}
	out, err := Encode(&m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
