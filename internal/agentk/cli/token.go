package cli

import (
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

// tokenSource returns the agent token from the file, from the environment, where it is removed, or as fallback the one of the file of
// --config. The file is read again within a second of its change; while it cannot be read the last token is used.
func tokenSource(file, fallback string, p Process, log *zap.Logger) (func() string, error) {
	variable, fromEnv, err := tokenOfEnvironment(p)
	if err != nil {
		return nil, err
	}
	switch {
	case file != "" && variable != "":
		return nil, fmt.Errorf("--token-file and the environment variable %s: give one of them", variable)
	case fallback != "" && (file != "" || variable != ""):
		log.Info("agent.token of the file of --config is not used: --token-file or the environment has a token")
	case file == "" && variable == "" && fallback == "":
		return nil, fmt.Errorf("--token-file or the environment variable %s is required", tokenVariable)
	}
	if file == "" {
		token := fallback
		if variable != "" {
			token = secretfile.Trim(fromEnv)
		}
		if token == "" {
			return nil, fmt.Errorf("environment variable %s holds no token", variable)
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

// tokenOfEnvironment takes the token out of the environment, where children and whoever reads /proc would see it. It returns the name of
// the variable, "" if there is none, and its value.
func tokenOfEnvironment(p Process) (string, string, error) {
	found, value := "", ""
	for _, name := range []string{tokenVariable, secretVariable} {
		text := p.Getenv(name)
		if err := p.Unsetenv(name); err != nil {
			return "", "", fmt.Errorf("remove %s from the environment: %w", name, err)
		}
		switch {
		case text == "":
		case found != "":
			return "", "", fmt.Errorf("the environment variables %s and %s: give one of them", found, name)
		default:
			found, value = name, text
		}
	}
	return found, value, nil
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
	token, err := t.file.Recent()
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
