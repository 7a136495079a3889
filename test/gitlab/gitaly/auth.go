package gitaly

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// tokenWindow is how far a client's clock may be off, either way.
const tokenWindow = 30 * time.Second

// authenticate checks a call's token.
func (s *Server) authenticate(ctx context.Context, method string) error {
	openHealth := s.cfg.Personality >= V16_11 && strings.HasPrefix(method, "/grpc.health.v1.Health/")
	if s.cfg.Token == "" || s.cfg.Transitioning || openHealth {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return errUnauthenticated
	}
	scheme, token, spaced := strings.Cut(values[0], " ")
	parts := strings.SplitN(token, ".", 3)
	if !spaced || !strings.EqualFold(scheme, "bearer") || len(parts) != 3 {
		return errUnauthenticated
	}
	signature, err := hex.DecodeString(parts[1])
	if err != nil {
		return errUnauthenticated
	}
	if parts[0] != "v2" {
		return s.denied("unknown version of the token")
	}
	mac := hmac.New(sha256.New, []byte(s.cfg.Token))
	mac.Write([]byte(parts[2]))
	if !hmac.Equal(mac.Sum(nil), signature) {
		return s.denied("invalid signature")
	}
	seconds, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return s.denied("cannot parse the time")
	}
	now, issued := s.cfg.Now(), time.Unix(seconds, 0)
	if issued.Before(now.Add(-tokenWindow)) || issued.After(now.Add(tokenWindow)) {
		return s.denied("the token's validity window is in past or future")
	}
	return nil
}

var errUnauthenticated = status.Error(codes.Unauthenticated, "authentication required")

// denied says why only in the newest releases.
func (s *Server) denied(why string) error {
	if s.cfg.Personality < V18 {
		return status.Error(codes.PermissionDenied, "permission denied")
	}
	return status.Error(codes.PermissionDenied, "permission denied: "+why)
}
