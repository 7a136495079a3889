package peer

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gitlab.com/agentk/agentk/internal/jwtauth"
)

const (
	// tokenLife is enough for a call that starts now.
	tokenLife = 5 * time.Second
	// tokenReuse is how long calls share a token. A new one for every call would be a new header, which HTTP/2 cannot shorten.
	tokenReuse = time.Second
	// clockSkew is how far the other kas' clock may be behind.
	clockSkew = 5 * time.Second
)

// tokens makes the tokens of calls.
type tokens struct {
	keys jwtauth.Keys

	mu sync.Mutex
	// mu guards the fields below: the newest token, when it was made, and by which key.
	header map[string]string
	made   time.Time
	key    []byte
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t *tokens) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	now, key := time.Now(), t.keys.Key()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.header != nil && now.Sub(t.made) < tokenReuse && bytes.Equal(key, t.key) {
		return t.header, nil
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer:    issuer,
		Audience:  jwt.ClaimStrings{audience},
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-clockSkew)),
		ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
	}).SignedString(key)
	if err != nil {
		return nil, fmt.Errorf("sign the token for the other kas: %w", err)
	}
	t.header, t.made, t.key = map[string]string{"authorization": "Bearer " + signed}, now, key
	return t.header, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: replicas often talk in the clear inside of one network.
func (*tokens) RequireTransportSecurity() bool { return false }
