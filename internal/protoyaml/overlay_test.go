package protoyaml

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/kascfg"
)

func TestDecode_Overlay(t *testing.T) {
	const file = `agent: &a
  listen: {address: one, websocket: true}
  info_cache_ttl: 5s
redis:
  sentinel: {master_name: m, addresses: [a, b]}
`
	for _, tt := range []struct{ name, over, want string }{
		{"nothing", "", file},
		{"null", "null", file},
		{"null section", "agent:\nredis: {sentinel: }", file},
		{
			"scalar and false", "agent: {listen: {websocket: false}, info_cache_ttl: 6s}",
			"agent: {listen: {address: one, websocket: false}, info_cache_ttl: 6s}\nredis: {sentinel: {master_name: m, addresses: [a, b]}}",
		},
		{
			"lists are replaced", "redis: {sentinel: {addresses: [c]}}",
			"agent: {listen: {address: one, websocket: true}, info_cache_ttl: 5s}\nredis: {sentinel: {master_name: m, addresses: [c]}}",
		},
		{
			"new section", "redis: {password_file: /p, sentinel: {tls: {enabled: true}}}",
			"agent: {listen: {address: one, websocket: true}, info_cache_ttl: 5s}\nredis: {password_file: /p, sentinel: {master_name: m, addresses: [a, b], tls: {enabled: true}}}",
		},
		{
			"aliases", "x: &l {address: two}\nagent: {listen: *l}",
			"x: 1\nagent: {listen: {address: two, websocket: true}, info_cache_ttl: 5s}\nredis: {sentinel: {master_name: m, addresses: [a, b]}}",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, want := &kascfg.ConfigurationFile{}, &kascfg.ConfigurationFile{}
			if _, err := Decode([]byte(file), got, Options{WarnUnknown: true, Overlay: []byte(tt.over)}); err != nil {
				t.Fatal(err)
			}
			if _, err := Decode([]byte(tt.want), want, Options{WarnUnknown: true}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("over an empty file", func(t *testing.T) {
		got := &kascfg.ConfigurationFile{}
		if _, err := Decode(nil, got, Options{Overlay: []byte("agent: {info_cache_ttl: 1s}")}); err != nil || got.Agent.InfoCacheTtl.Seconds != 1 {
			t.Error(got, err)
		}
	})
}

func TestDecode_OverlayMistakes(t *testing.T) {
	const file = "agent:\n  listen: {address: 1}\n"
	for over, want := range map[string]string{
		"agent: {listen: {websocket: maybe}}": "agent.listen.address (line 2): must be a string, not a number; write it in quotes; agent.listen.websocket: must be true or false, not a string",
		"a: [":                                "line 1: did not find expected node content",
		"agent: 1":                            "agent: must be a mapping of keys to values, not a number",
		"[]":                                  "must be a mapping of keys to values, not a list",
		"a: &a [*a, *a]\nagent: *a":           "agent: must be a mapping of keys to values, not a list",
	} {
		_, err := Decode([]byte(file), &kascfg.ConfigurationFile{}, Options{WarnUnknown: true, Overlay: []byte(over)})
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", over, err, want)
		}
	}
}
