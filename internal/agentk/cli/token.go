package cli

import (
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

// tokenSource returns the agent token from the file, or from the environment, where it is removed. The file is read again when it
// changes; while it cannot be read the last token is used.
func tokenSource(file string, p Process, log *zap.Logger) (func() string, error) {
	fromEnv := p.Getenv(tokenVariable)
	if err := p.Unsetenv(tokenVariable); err != nil {
		return nil, fmt.Errorf("remove %s from the environment: %w", tokenVariable, err)
	}
	switch {
	case file != "" && fromEnv != "":
		return nil, fmt.Errorf("--token-file and the environment variable %s: give one of them", tokenVariable)
	case file == "" && fromEnv == "":
		return nil, fmt.Errorf("--token-file or the environment variable %s is required", tokenVariable)
	case file == "":
		token := secretfile.Trim(fromEnv)
		if token == "" {
			return nil, fmt.Errorf("environment variable %s holds no token", tokenVariable)
		}
		return func() string { return token }, nil
	}
	t := &fileToken{file: secretfile.New(file), log: log}
	last, err := t.file.Read()
	if err != nil {
		return nil, flagError("token-file", err)
	}
	t.last = last
	return t.get, nil
}

// fileToken is an agent token in a file.
type fileToken struct {
	file *secretfile.File
	log  *zap.Logger

	// mu guards all below.
	mu   sync.Mutex
	last string
	err  error // of the last look at the file
}

func (t *fileToken) get() string {
	token, err := t.file.Read()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		if token != t.last {
			t.log.Info("Agent token was replaced")
		}
		t.last = token
	case t.err == nil || !errors.Is(err, t.err) && err.Error() != t.err.Error():
		t.log.Warn("Agent token cannot be read, the last one stays in use", zap.Error(err))
	}
	t.err = err
	return t.last
}
