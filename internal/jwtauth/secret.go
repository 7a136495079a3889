package jwtauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

// errEmptyKey: with an empty key anybody could sign.
var errEmptyKey = errors.New("the key is empty")

// Secret is a shared key in a file of standard Base64, which somebody else replaces while kas runs. It is safe for concurrent
// use.
type Secret struct {
	path string
	file *secretfile.File
	log  *zap.Logger

	// mu guards the fields below: text is what key was decoded from, complaint what was logged about the file last.
	mu        sync.Mutex
	text      string
	key       []byte
	complaint string
}

// OpenSecret reads the file once, so that a mistake in it is known at the start.
func OpenSecret(path string, log *zap.Logger) (*Secret, error) {
	s := &Secret{path: path, file: secretfile.New(path), log: log}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("read authentication secret: %w", err)
	}
	return s, nil
}

// Key returns the key as the file has it now. While the file is missing, half-written or broken the last good key stays, with a
// line in the log.
func (s *Secret) Key() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.load()
	switch {
	case err == nil:
		s.complaint = ""
	case err.Error() != s.complaint:
		s.complaint = err.Error()
		s.log.Warn("Changed authentication secret cannot be used; the old one stays", zap.Error(err))
	}
	return s.key
}

// load decodes the file if it changed. mu is held, except at the start.
func (s *Secret) load() error {
	text, err := s.file.Read()
	if err != nil {
		return err
	}
	if text == s.text {
		return nil
	}
	// The decoder skips line ends, as files made by base64 have them, and nothing else. Its error tells a position only.
	key, err := base64.StdEncoding.DecodeString(text)
	if err == nil && len(key) == 0 {
		err = errEmptyKey
	}
	if err != nil {
		return fmt.Errorf("%s: not the Base64 of a key: %w", s.path, err)
	}
	s.text, s.key = text, key
	return nil
}
