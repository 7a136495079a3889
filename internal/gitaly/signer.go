package gitaly

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
)

// signer proves with every attempt of every call that kas knows the server's secret, without sending it. A proof is good for 30 s
// around the server's time, so none is kept.
type signer struct {
	secret string
	now    func() time.Time
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (s *signer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + s.token()}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: Gitaly mostly listens in the clear, which is why the secret
// itself is not sent.
func (s *signer) RequireTransportSecurity() bool { return false }

func (s *signer) token() string {
	message := strconv.FormatInt(s.now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(s.secret))
	mac.Write([]byte(message))
	return "v2." + hex.EncodeToString(mac.Sum(nil)) + "." + message
}
