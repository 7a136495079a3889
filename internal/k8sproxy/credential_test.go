package k8sproxy

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestCredential_Refused(t *testing.T) {
	const (
		auth   = "Unauthorized: Authorization header: "
		oneID  = `Unauthorized: exactly one agent id must be provided either in the "Gitlab-Agent-Id" header or "gitlab-agent-id" query parameter`
		oneTok = `Unauthorized: exactly one CSRF token must be provided either in the "X-Csrf-Token" header or "gitlab-csrf-token" query parameter`
	)
	bearerOf := func(values ...string) http.Header { return http.Header{"Authorization": values} }
	cookie := func(value string, more ...string) http.Header {
		h := http.Header{"Cookie": {"_gitlab_kas=" + value}}
		for i := 0; i < len(more); i += 2 {
			h.Add(more[i], more[i+1])
		}
		return h
	}
	tests := []struct {
		name   string
		header http.Header
		query  string
		want   string
	}{
		{"nothing", http.Header{}, "", "Unauthorized: no valid credentials provided"},
		{"other cookie", http.Header{"Cookie": {"a=b"}}, "", "Unauthorized: no valid credentials provided"},
		{"two headers", bearerOf("Bearer ci:1:a", "Bearer ci:1:a"), "", auth + "expecting a single header, got 2"},
		{"empty header hides the cookie", http.Header{"Authorization": {""}, "Cookie": {"_gitlab_kas=ok"}}, "", auth + "expecting Bearer token"},
		{"basic", bearerOf("Basic Y2k6NzpvaA=="), "", auth + "expecting Bearer token"},
		{"lower case", bearerOf("bearer ci:1:a"), "", auth + "expecting Bearer token"},
		{"two spaces", bearerOf("Bearer  ci:1:a"), "", auth + "unknown token type"},
		{"no colon", bearerOf("Bearer ci"), "", auth + "invalid value"},
		{"empty token of no kind", bearerOf("Bearer "), "", auth + "invalid value"},
		{"one colon", bearerOf("Bearer ci:1"), "", auth + "invalid value"},
		{"unknown type", bearerOf("Bearer zz:1:a"), "", auth + "unknown token type"},
		{"unknown type first", bearerOf("Bearer zz:1"), "", auth + "unknown token type"},
		{"upper case type", bearerOf("Bearer CI:1:a"), "", auth + "unknown token type"},
		{"empty id", bearerOf("Bearer ci::a"), "", auth + `failed to parse: strconv.ParseInt: parsing "": invalid syntax`},
		{"id no number", bearerOf("Bearer pat:x:a"), "", auth + `failed to parse: strconv.ParseInt: parsing "x": invalid syntax`},
		{"id with space", bearerOf("Bearer pat: 1:a"), "", auth + `failed to parse: strconv.ParseInt: parsing " 1": invalid syntax`},
		{"id too big", bearerOf("Bearer ci:9223372036854775808:a"), "", auth + `failed to parse: strconv.ParseInt: parsing "9223372036854775808": value out of range`},
		{"zero id", bearerOf("Bearer ci:0:a"), "", auth + "agent id must be positive"},
		{"negative id", bearerOf("Bearer ci:-1:a"), "", auth + "agent id must be positive"},
		{"empty token", bearerOf("Bearer ci:1:"), "", auth + "empty token"},
		{"empty cookie", cookie(""), "gitlab-agent-id=1", "Unauthorized: _gitlab_kas cookie value must not be empty"},
		{"undecodable cookie", cookie("%zz"), "", "Unauthorized: _gitlab_kas invalid cookie value"},
		{"no agent id", cookie("v"), "", oneID},
		{"agent id twice in query", cookie("v"), "gitlab-agent-id=1&gitlab-agent-id=1", oneID},
		{"agent id twice in header", cookie("v", "Gitlab-Agent-Id", "1", "Gitlab-Agent-Id", "1"), "", "Unauthorized: Gitlab-Agent-Id header must have exactly one value"},
		{"agent id no number", cookie("v"), "gitlab-agent-id=1x", `Unauthorized: agent id in request: invalid value: "1x"`},
		{"agent id zero", cookie("v", "Gitlab-Agent-Id", "0"), "gitlab-agent-id=1", `Unauthorized: agent id in request: invalid value: "0"`},
		{"no CSRF", cookie("v"), "gitlab-agent-id=1", oneTok},
		{"CSRF twice in query", cookie("v"), "gitlab-agent-id=1&gitlab-csrf-token=a&gitlab-csrf-token=a", oneTok},
		{"CSRF twice in header", cookie("v", "X-Csrf-Token", "a", "X-Csrf-Token", "b"), "gitlab-agent-id=1", "Unauthorized: X-Csrf-Token header must have exactly one value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			query, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			c, why := credentialOf(tt.header, query)
			if why == nil {
				t.Fatalf("accepted: agent %d", c.agentID)
			}
			if why.msg != tt.want || why.code != http.StatusUnauthorized {
				t.Errorf("%d %q\nwant %q", why.code, why.msg, tt.want)
			}
		})
	}
}

func TestCredential_Accepted(t *testing.T) {
	session := http.Header{"Cookie": {"_gitlab_kas=a%2Bb+c; _gitlab_kas=second"}}
	tests := []struct {
		name   string
		header http.Header
		query  string
		want   credential
	}{
		{"job", http.Header{"Authorization": {"Bearer ci:7:tok"}}, "", credential{access: accessCI, agentID: 7, token: "tok"}},
		{"token with colons", http.Header{"Authorization": {"Bearer ci:7:a:b:"}}, "", credential{access: accessCI, agentID: 7, token: "a:b:"}},
		{"plus sign", http.Header{"Authorization": {"Bearer pat:+7:tok"}}, "", credential{access: accessPAT, agentID: 7, token: "tok"}},
		{"largest id", http.Header{"Authorization": {"Bearer pat:9223372036854775807:t"}}, "", credential{access: accessPAT, agentID: 1<<63 - 1, token: "t"}},
		{"session by query", session, "gitlab-agent-id=7&gitlab-csrf-token=x", credential{access: accessSession, agentID: 7, token: "a+b c", csrf: "x"}},
		{"empty CSRF", session, "gitlab-agent-id=7&gitlab-csrf-token=", credential{access: accessSession, agentID: 7, token: "a+b c"}},
		{
			"header wins",
			http.Header{"Cookie": session["Cookie"], "Gitlab-Agent-Id": {"8"}, "X-Csrf-Token": {"h"}},
			"gitlab-agent-id=7&gitlab-csrf-token=x",
			credential{access: accessSession, agentID: 8, token: "a+b c", csrf: "h"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			query, _ := url.ParseQuery(tt.query)
			got, why := credentialOf(tt.header, query)
			if why != nil || got != tt.want {
				t.Errorf("%+v, %+v", got, why)
			}
		})
	}
}

// What a client sends in the wrong place may be a token: it goes back to the client, never into a log.
func TestCredential_LogHoldsNothingOfIt(t *testing.T) {
	for _, h := range []http.Header{
		{"Authorization": {"Bearer ci:canary:7"}},
		{"Authorization": {"Basic canary"}},
		{"Authorization": {"canary:7:x"}},
		{"Cookie": {"_gitlab_kas=v"}, "Gitlab-Agent-Id": {"canary"}},
	} {
		_, why := credentialOf(h, nil)
		if why == nil || strings.Contains(why.logText(), "canary") {
			t.Errorf("%v: %+v", h, why)
		}
	}
}

func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer ", "Bearer ci:7:tok", "Bearer pat:+7:a:b", "Bearer ci:7", "bearer ci:7:x", "Bearer zz:1:", "Bearer ci:99999999999999999999:x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, why := credentialOf(http.Header{"Authorization": {value}, "Cookie": {"_gitlab_kas=v"}, "Gitlab-Agent-Id": {"1"}, "X-Csrf-Token": {""}}, nil)
		if why != nil {
			if why.code != http.StatusUnauthorized || !strings.HasPrefix(why.msg, "Unauthorized: Authorization header: ") {
				t.Fatalf("%+v", why)
			}
			return
		}
		if c.agentID <= 0 || c.token == "" || c.csrf != "" || c.access != accessCI && c.access != accessPAT {
			t.Fatalf("%q became %+v", value, c)
		}
		// The credential is the whole value, read in one way.
		id := strings.TrimSuffix(strings.TrimPrefix(value, "Bearer "+string(c.access)+":"), ":"+c.token)
		if n, err := strconv.ParseInt(id, 10, 64); err != nil || n != c.agentID {
			t.Fatalf("%q became %+v", value, c)
		}
	})
}
