package jwtauth_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/jwtauth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixedKey []byte

func (k fixedKey) Key() []byte { return k }

var (
	key = fixedKey("0123456789abcdef0123456789abcdef")
	now = time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC)
)

func newVerifier(t testing.TB, k jwtauth.Keys, issuer string) *jwtauth.Verifier {
	t.Helper()
	v, err := jwtauth.NewVerifier(jwtauth.Config{
		Keys: k, Audience: jwtauth.AudienceKas, Issuer: issuer, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// rails are the claims that GitLab Rails sends, with changes.
func rails(change func(jwt.MapClaims)) jwt.MapClaims {
	c := jwt.MapClaims{
		"jti": "4f0e", "iss": "gitlab.example.com", "aud": []string{"gitlab-kas"},
		"iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	if change != nil {
		change(c)
	}
	return c
}

func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.Claims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hs256(t testing.TB, change func(jwt.MapClaims)) string {
	t.Helper()
	return sign(t, jwt.SigningMethodHS256, []byte(key), rails(change))
}

func TestVerify(t *testing.T) {
	set := func(name string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = value } }
	unset := func(name string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { delete(c, name) } }
	for name, tc := range map[string]struct {
		token string
		ok    bool
	}{
		"as Rails sends it":           {hs256(t, nil), true},
		"HS384":                       {sign(t, jwt.SigningMethodHS384, []byte(key), rails(nil)), true},
		"HS512":                       {sign(t, jwt.SigningMethodHS512, []byte(key), rails(nil)), true},
		"audience as text":            {hs256(t, set("aud", "gitlab-kas")), true},
		"one audience of several":     {hs256(t, set("aud", []string{"other", "gitlab-kas"})), true},
		"any issuer":                  {hs256(t, set("iss", "someone")), true},
		"no issuer":                   {hs256(t, unset("iss")), true},
		"unknown claims":              {hs256(t, set("features", map[string]any{"a": 1})), true},
		"expired within the leeway":   {hs256(t, set("exp", now.Add(-3*time.Second).Unix())), true},
		"early within the leeway":     {hs256(t, set("nbf", now.Add(3*time.Second).Unix())), true},
		"issued in the future":        {hs256(t, set("iat", now.Add(time.Hour).Unix())), true},
		"expired":                     {hs256(t, set("exp", now.Add(-time.Minute).Unix())), false},
		"not yet valid":               {hs256(t, set("nbf", now.Add(time.Minute).Unix())), false},
		"other audience":              {hs256(t, set("aud", []string{"gitlab"})), false},
		"audience that looks alike":   {hs256(t, set("aud", "gitlab-kas-other")), false},
		"no audience":                 {hs256(t, unset("aud")), false},
		"empty audience":              {hs256(t, set("aud", []string{})), false},
		"audience of the wrong type":  {hs256(t, set("aud", 7)), false},
		"exp of the wrong type":       {hs256(t, set("exp", "tomorrow")), false},
		"other key":                   {sign(t, jwt.SigningMethodHS256, []byte("another key that is long enough!"), rails(nil)), false},
		"empty key":                   {sign(t, jwt.SigningMethodHS256, []byte{}, rails(nil)), false},
		"alg none":                    {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, rails(nil)), false},
		"no signature":                {hs256(t, nil)[:strings.LastIndex(hs256(t, nil), ".")+1], false},
		"signature cut":               {hs256(t, nil)[:len(hs256(t, nil))-2], false},
		"signature of another token":  {swapSignature(hs256(t, set("iss", "a")), hs256(t, set("iss", "b"))), false},
		"empty":                       {"", false},
		"agent token":                 {"glagent-0123456789", false},
		"two parts":                   {"e30.e30", false},
		"four parts":                  {hs256(t, nil) + ".x", false},
		"not Base64":                  {"?.?.?", false},
		"header is no object":         {"bnVsbA.e30.AAAA", false},
		"signature in front of space": {hs256(t, nil) + " ", false},
		"huge":                        {hs256(t, set("x", strings.Repeat("x", 9<<10))), false},
		"huge and no token at all":    {strings.Repeat(".", 1<<20), false},
	} {
		t.Run(name, func(t *testing.T) {
			err := newVerifier(t, key, "").Verify(tc.token)
			if (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func swapSignature(a, b string) string {
	return a[:strings.LastIndex(a, ".")] + b[strings.LastIndex(b, "."):]
}

// The public key of an asymmetric pair must not serve as a shared one, nor the other way round.
func TestVerify_AlgorithmConfusion(t *testing.T) {
	pair, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&pair.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	v := newVerifier(t, fixedKey(public), "")
	if err := v.Verify(sign(t, jwt.SigningMethodRS256, pair, rails(nil))); err == nil {
		t.Error("RS256 is accepted where the key is the public one")
	}
	if err := newVerifier(t, key, "").Verify(sign(t, jwt.SigningMethodHS256, public, rails(nil))); err == nil {
		t.Error("HS256 over a public key is accepted")
	}
}

func TestVerify_Issuer(t *testing.T) {
	v := newVerifier(t, key, "gitlab-kas")
	if err := v.Verify(hs256(t, func(c jwt.MapClaims) { c["iss"] = "gitlab-kas" })); err != nil {
		t.Error(err)
	}
	for _, issuer := range []string{"", "gitlab.example.com"} {
		if err := v.Verify(hs256(t, func(c jwt.MapClaims) { c["iss"] = issuer })); err == nil {
			t.Errorf("issuer %q is accepted", issuer)
		}
	}
}

func TestVerify_EmptyKeyAdmitsNobody(t *testing.T) {
	v := newVerifier(t, fixedKey(nil), "")
	if err := v.Verify(sign(t, jwt.SigningMethodHS256, []byte{}, rails(nil))); err == nil {
		t.Error("a token signed with an empty key is accepted")
	}
}

func TestNewVerifier_Refusals(t *testing.T) {
	for name, cfg := range map[string]jwtauth.Config{
		"no keys":     {Audience: "gitlab-kas"},
		"no audience": {Keys: key},
	} {
		if _, err := jwtauth.NewVerifier(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestGuard_Bearer(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	g := jwtauth.NewGuard(newVerifier(t, key, ""), zap.New(core))
	good := hs256(t, nil)
	for name, tc := range map[string]struct {
		authorization []string
		want          string // empty: admitted
	}{
		"Bearer":         {[]string{"Bearer " + good}, ""},
		"bearer":         {[]string{"bearer " + good}, ""},
		"BEARER":         {[]string{"BEARER " + good}, ""},
		"absent":         {nil, "Request unauthenticated with bearer"},
		"other scheme":   {[]string{"Basic " + good}, "Request unauthenticated with bearer"},
		"no space":       {[]string{good}, "Bad authorization string"},
		"empty":          {[]string{""}, "Bad authorization string"},
		"empty token":    {[]string{"Bearer "}, "JWT validation failed"},
		"two spaces":     {[]string{"Bearer  " + good}, "JWT validation failed"},
		"agent token":    {[]string{"Bearer glagent-secret"}, "JWT validation failed"},
		"first is wrong": {[]string{"Bearer x", "Bearer " + good}, "JWT validation failed"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if tc.authorization != nil {
				ctx = metadata.NewIncomingContext(ctx, metadata.MD{"authorization": tc.authorization})
			}
			called := false
			_, err := g.UnaryInterceptor(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/s/M"}, func(context.Context, any) (any, error) {
				called = true
				return nil, nil
			})
			if called != (tc.want == "") {
				t.Errorf("handler called: %t", called)
			}
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if st := status.Convert(err); st.Code() != codes.Unauthenticated || st.Message() != tc.want {
				t.Errorf("got %v", err)
			}
		})
	}
	if logs.Len() != 1 {
		t.Errorf("%d log lines for a burst of refusals, want 1", logs.Len())
	}
	for _, entry := range logs.All() {
		for _, f := range entry.Context {
			if strings.Contains(f.String, good) || strings.Contains(f.String, "glagent-secret") {
				t.Error("a token is in the log")
			}
		}
	}
}

func writeSecret(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestSecret_IsReloaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, second := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	writeSecret(t, path, base64.StdEncoding.EncodeToString(first)+"\n")
	core, logs := observer.New(zap.WarnLevel)
	s, err := jwtauth.OpenSecret(path, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, s, "")
	tokens := map[string]string{}
	for name, k := range map[string][]byte{"first": first, "second": second} {
		tokens[name] = sign(t, jwt.SigningMethodHS256, k, rails(nil))
	}
	check := func(good, bad string) {
		t.Helper()
		if err := v.Verify(tokens[good]); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		if err := v.Verify(tokens[bad]); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	check("first", "second")
	writeSecret(t, path, base64.StdEncoding.EncodeToString(second))
	check("second", "first")
	writeSecret(t, path, "half a")
	check("second", "first")
	check("second", "first")
	if logs.Len() != 1 {
		t.Errorf("%d log lines about one broken file", logs.Len())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("second", "first")
	writeSecret(t, path, base64.StdEncoding.EncodeToString(first))
	check("first", "second")
}

func TestOpenSecret(t *testing.T) {
	folded := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 60))
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"plain":             {base64.StdEncoding.EncodeToString(key), true},
		"newline":           {base64.StdEncoding.EncodeToString(key) + "\n", true},
		"folded":            {folded[:40] + "\n" + folded[40:] + "\r\n", true},
		"empty":             {"", false},
		"newline only":      {"\n\n\n", false},
		"space":             {" " + base64.StdEncoding.EncodeToString(key), false},
		"raw":               {string(key) + "!", false},
		"URL alphabet only": {"-_-_", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			writeSecret(t, path, tc.text)
			_, err := jwtauth.OpenSecret(path, zap.NewNop())
			if (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
			if err != nil && len(tc.text) > 8 && strings.Contains(err.Error(), tc.text) {
				t.Error("the secret is in the error")
			}
		})
	}
	if _, err := jwtauth.OpenSecret(filepath.Join(t.TempDir(), "none"), zap.NewNop()); err == nil {
		t.Error("a missing file is accepted")
	}
}

// FuzzVerify: whatever a stranger sends is refused without a panic. The only token ever accepted is one we signed.
func FuzzVerify(f *testing.F) {
	good := hs256(f, nil)
	f.Add(good)
	f.Add(sign(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, rails(nil)))
	f.Add(swapSignature(hs256(f, func(c jwt.MapClaims) { c["exp"] = 1e300 }), good))
	f.Add("e30.e30.")
	f.Add("eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOltbW119.AA")
	v := newVerifier(f, key, "")
	f.Fuzz(func(t *testing.T, token string) {
		if err := v.Verify(token); err == nil && token != good {
			// A signature has spellings that differ in unused bits of its last letter.
			if signed := token[:max(strings.LastIndex(token, "."), 0)]; signed != good[:strings.LastIndex(good, ".")] {
				t.Errorf("accepted %q", token)
			}
		}
	})
}
