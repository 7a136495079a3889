package jwtauth_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gitlab.com/agentk/agentk/internal/jwtauth"
)

// changingKey is a secret file that is written anew.
type changingKey struct{ key []byte }

func (k *changingKey) Key() []byte { return k.key }

// A token that was good is so until it expires and no longer than its key.
func TestVerify_Again(t *testing.T) {
	clock, keys := now, &changingKey{key}
	v, err := jwtauth.NewVerifier(jwtauth.Config{Keys: keys, Audience: jwtauth.AudienceKas, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	token := hs256(t, nil)
	verify := func(when string, token string, good bool) {
		t.Helper()
		for range 2 {
			if err := v.Verify(token); (err == nil) != good {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	verify("at first", token, true)
	verify("another token with the same signature", "x"+token, false)
	verify("the signature of another", swapSignature(hs256(t, func(c jwt.MapClaims) { c["iss"] = "b" }), token), false)
	keys.key = []byte("another key that is long enough!")
	verify("with another key", token, false)
	keys.key = nil
	verify("without a key", token, false)
	keys.key = key
	verify("with its key again", token, true)
	for i := range 200 { // more than are remembered
		verify("one of many", hs256(t, func(c jwt.MapClaims) { c["jti"] = fmt.Sprint(i) }), true)
	}
	verify("after many others", token, true)
	clock = now.Add(time.Minute + 4*time.Second)
	verify("within the leeway", token, true)
	clock = now.Add(time.Minute + 6*time.Second)
	verify("expired", token, false)
	clock = now
	verify("never expires", hs256(t, func(c jwt.MapClaims) { delete(c, "exp") }), true)
}

func BenchmarkVerify_Again(b *testing.B) {
	v := newVerifier(b, key, "")
	token := hs256(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
