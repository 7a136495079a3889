// Package jwtauth checks the JSON web tokens by which those who share a secret file with kas prove themselves: GitLab Rails, and
// later other replicas. A token is believed only if it is signed with HMAC by the shared key, is meant for this audience, and is
// of this moment. The token's own header chooses among the HMAC algorithms and nothing else: "none", or an asymmetric algorithm
// whose public key would be taken for the shared one, never reach a key.
package jwtauth

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// AudienceKas is whom tokens sent to kas are meant for.
	AudienceKas = "gitlab-kas"
	// maxToken bounds a token, in bytes. Those of Rails have some hundred.
	maxToken = 8 << 10
	// leeway is how far two clocks may be apart.
	leeway = 5 * time.Second
)

var errTokenSize = errors.New("token is too long")

// Keys knows the shared key. It is asked for every token, so that a changed key counts at once.
type Keys interface{ Key() []byte }

// Config configures a Verifier.
type Config struct {
	Keys Keys
	// Audience must be among the audiences of a token.
	Audience string
	// Issuer must be that of a token; empty: it is not looked at.
	Issuer string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	keys   Keys
	parser *jwt.Parser
	now    func() time.Time
	good   remembered
}

// NewVerifier fails without keys or an audience: both are what makes a check.
func NewVerifier(cfg Config) (*Verifier, error) {
	if cfg.Keys == nil || cfg.Audience == "" {
		return nil, errors.New("jwtauth: keys and audience are required")
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg(), jwt.SigningMethodHS384.Alg(), jwt.SigningMethodHS512.Alg()}),
		jwt.WithAudience(cfg.Audience),
		jwt.WithLeeway(leeway),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Now != nil {
		options = append(options, jwt.WithTimeFunc(cfg.Now))
	}
	v := &Verifier{keys: cfg.Keys, parser: jwt.NewParser(options...), now: time.Now}
	if cfg.Now != nil {
		v.now = cfg.Now
	}
	return v, nil
}

// Verify says what is wrong with a token, nil if it is to be believed. The error holds no part of the token but, at most, the
// name of its algorithm.
func (v *Verifier) Verify(token string) error {
	if len(token) > maxToken {
		return errTokenSize
	}
	key, id := v.keys.Key(), sha256.Sum256([]byte(token))
	if len(key) == 0 {
		return errEmptyKey
	}
	if v.good.has(id, key, v.now()) {
		return nil
	}
	claims := &jwt.RegisteredClaims{}
	if _, err := v.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
		return err
	}
	if claims.ExpiresAt != nil {
		v.good.add(id, key, claims.ExpiresAt.Add(leeway))
	}
	return nil
}
