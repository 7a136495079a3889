package gitaly

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func tokenOf(key, message string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(message))
	return "Bearer v2." + hex.EncodeToString(mac.Sum(nil)) + "." + message
}

func TestToken_Vector(t *testing.T) {
	want := "Bearer v2.34f3badcbdb7ed895e3610936a58e688bae8b11d5491c8a55423fd02a0d2ab94.1700000000"
	if got := tokenOf("abc123secret", "1700000000"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAuthentication(t *testing.T) {
	now := time.Unix(1_700_000_000, 500_000_000)
	at := func(offset time.Duration) string { return token(secret, now.Add(offset)) }
	good := at(0)
	c := start(t, Config{Token: secret, Now: func() time.Time { return now }})
	for name, test := range map[string]struct {
		header string
		want   codes.Code
	}{
		"right":                        {good, codes.OK},
		"scheme in lower case":         {"bearer" + strings.TrimPrefix(good, "Bearer"), codes.OK},
		"signature in upper case":      {"Bearer v2." + strings.ToUpper(good[10:74]) + good[74:], codes.OK},
		"29 s old":                     {at(-29 * time.Second), codes.OK},
		"32 s old":                     {at(-32 * time.Second), codes.PermissionDenied},
		"29 s early":                   {at(29 * time.Second), codes.OK},
		"32 s early":                   {at(32 * time.Second), codes.PermissionDenied},
		"milliseconds":                 {tokenOf(secret, strconv.FormatInt(now.UnixMilli(), 10)), codes.PermissionDenied},
		"no number":                    {tokenOf(secret, "soon"), codes.PermissionDenied},
		"other secret":                 {token("other", now), codes.PermissionDenied},
		"other version":                {strings.Replace(good, "v2.", "v3.", 1), codes.PermissionDenied},
		"nothing":                      {"", codes.Unauthenticated},
		"other scheme":                 {"Basic" + strings.TrimPrefix(good, "Bearer"), codes.Unauthenticated},
		"no scheme":                    {strings.TrimPrefix(good, "Bearer "), codes.Unauthenticated},
		"two parts":                    {good[:74], codes.Unauthenticated},
		"signature in no hex":          {strings.Replace(good, "v2.34", "v2.zz", 1), codes.Unauthenticated},
		"the secret itself (v1)":       {"Bearer " + secret, codes.Unauthenticated},
		"message beyond the last dots": {tokenOf(secret, "17.0"), codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			c.token = func() string { return test.header }
			if test.header == "" {
				c.token = nil
			}
			_, err := c.findCommit(t, repo(full), "HEAD")
			wantCode(t, err, test.want)
			switch test.want {
			case codes.Unauthenticated:
				wantStatus(t, err, test.want, "authentication required")
			case codes.PermissionDenied:
				wantStatus(t, err, test.want, "permission denied")
			}
		})
	}
}

func TestAuthentication_ServerLetsEverybodyIn(t *testing.T) {
	f := newFixture(t)
	for name, cfg := range map[string]Config{"no secret": {}, "transitioning": {Token: secret, Transitioning: true}} {
		t.Run(name, func(t *testing.T) {
			c := startOn(t, f, cfg)
			_, err := c.findCommit(t, repo(full), "HEAD")
			wantCode(t, err, codes.OK)
		})
	}
}

func TestAuthentication_Health(t *testing.T) {
	f := newFixture(t)
	for p, want := range map[Personality]codes.Code{V16_5: codes.Unauthenticated, V16_11: codes.OK} {
		c := startOn(t, f, Config{Token: secret, Personality: p})
		_, err := grpc_health_v1.NewHealthClient(c.conn).Check(c.ctx(t), &grpc_health_v1.HealthCheckRequest{})
		wantCode(t, err, want)
	}
}
