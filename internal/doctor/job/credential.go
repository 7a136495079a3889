package job

import (
	"errors"
	"strconv"
	"strings"
)

// Kinds of credentials for kas.
const (
	kindJob  = "ci"
	kindUser = "pat"
)

// credential is what a kubeconfig sends to kas.
type credential struct {
	kind    string
	agentID int64
	secret  string
}

// parseCredential takes <kind>:<agent id>:<token> apart. Its errors say nothing of the text.
func parseCredential(text string) (credential, error) {
	if text == "" {
		return credential{}, errors.New("the context has no token")
	}
	parts := strings.SplitN(text, ":", 3)
	if len(parts) != 3 {
		return credential{}, errors.New("the token has not three parts with colons between")
	}
	if parts[0] != kindJob && parts[0] != kindUser {
		return credential{}, errors.New("the token does not begin with the name of a kind, ci or pat")
	}
	id, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || id <= 0 {
		return credential{}, errors.New("the second part of the token is not an agent's number")
	}
	if parts[2] == "" {
		return credential{}, errors.New("the third part of the token is empty")
	}
	return credential{kind: parts[0], agentID: id, secret: parts[2]}, nil
}
