package gitaly

import (
	"testing"
	"time"
)

func TestSigner_Vector(t *testing.T) {
	s := &signer{secret: "abc123secret", now: func() time.Time { return time.Unix(1700000000, 999_999_999) }}
	md, err := s.GetRequestMetadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "Bearer v2.34f3badcbdb7ed895e3610936a58e688bae8b11d5491c8a55423fd02a0d2ab94.1700000000"
	if len(md) != 1 || md["authorization"] != want {
		t.Errorf("got %v, want %s", md, want)
	}
	if s.RequireTransportSecurity() {
		t.Error("the token is refused without TLS")
	}
}

// TestSigner_SecretIsBytes: nothing is decoded or trimmed.
func TestSigner_SecretIsBytes(t *testing.T) {
	at := func() time.Time { return time.Unix(1, 0) }
	seen := map[string]string{}
	for _, secret := range []string{"YWJj", "abc", "abc\n", " abc", "\xff\x00"} {
		token := (&signer{secret: secret, now: at}).token()
		if other, ok := seen[token]; ok {
			t.Errorf("%q and %q make the same token", secret, other)
		}
		seen[token] = secret
	}
}
