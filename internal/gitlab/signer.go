package gitlab

import (
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

const (
	issuer   = "gitlab-kas"
	audience = "gitlab"
	// tokenLife is long enough for a request that waits for a connection, and short enough that a leaked token is worth little.
	tokenLife = 30 * time.Second
	// clockSkew is how far GitLab's clock may be behind.
	clockSkew = 5 * time.Second
	keySize   = 32
)

// signer makes the tokens by which GitLab knows kas.
type signer struct {
	file *secretfile.File
	path string
	log  *zap.Logger

	// mu guards the fields below. text is what key was decoded from; complaint is what was logged about the file last.
	mu        sync.Mutex
	text      string
	key       []byte
	complaint string
}

func newSigner(path string, log *zap.Logger) (*signer, error) {
	s := &signer{file: secretfile.New(path), path: path, log: log}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("gitlab: secret: %w", err)
	}
	return s, nil
}

// load takes over the key if the file has a new one; s.mu is held, or s is new.
func (s *signer) load() error {
	text, err := s.file.Read()
	if err != nil {
		return err
	}
	if text == s.text {
		return nil
	}
	// The decoder skips line ends, wherever they are.
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%s: not Base64", s.path)
	}
	if len(key) != keySize {
		return fmt.Errorf("%s: %d bytes after decoding, must be %d", s.path, len(key), keySize)
	}
	s.text, s.key = text, key
	return nil
}

// current returns the key. A file that cannot be used any more is complained about once, and the key that was good last stays:
// a half-written file must not cut kas off.
func (s *signer) current() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	complaint := ""
	if err := s.load(); err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != s.complaint {
		s.log.Warn("Cannot read the new secret for GitLab, the old one stays", zap.String("cause", complaint))
	}
	s.complaint = complaint
	return s.key
}

// sign returns a token for one request.
func (s *signer) sign(now time.Time) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer:    issuer,
		Audience:  jwt.ClaimStrings{audience},
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-clockSkew)),
		ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
	}).SignedString(s.current())
}
