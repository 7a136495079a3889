package agentauth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var (
	errNoBearer  = status.Error(codes.Unauthenticated, "Request unauthenticated with bearer")
	errBadBearer = status.Error(codes.Unauthenticated, "Bad authorization string")
)

// bearer takes the token out of an RPC's metadata. It may contain anything, spaces too.
func bearer(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return "", errNoBearer
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found {
		return "", errBadBearer
	}
	if !strings.EqualFold(scheme, "bearer") {
		return "", errNoBearer
	}
	return token, nil
}

// tokenKey stands for a token wherever it must be remembered: the token itself is kept only by the RPCs that carry it.
type tokenKey [sha256.Size]byte

func keyOf(token string) tokenKey { return sha256.Sum256([]byte(token)) }

// limitKey names a token in the shared store. It is made of the first half only, so that whoever reads the store cannot try
// tokens against it.
func limitKey(token string) string {
	sum := sha256.Sum256([]byte(token[:len(token)/2]))
	return hex.EncodeToString(sum[:])
}
