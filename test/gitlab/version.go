package gitlab

import (
	"fmt"
	"strconv"
	"strings"
)

// Tier is what the instance has paid for.
type Tier int

// Tiers, lowest first.
const (
	Free Tier = iota
	Premium
	Ultimate
)

// The headers in which kas sent the token of an agent over time.
const (
	HeaderAuthorization = "Authorization"
	HeaderAgentk        = "Gitlab-Agentk-Api-Request"
	HeaderAgent         = "Gitlab-Agent-Api-Request"
)

// release is a GitLab version, as far as behaviour depends on it.
type release struct{ major, minor int }

func parseRelease(version string) (release, error) {
	major, minor, found := strings.Cut(version, ".")
	if !found {
		return release{}, fmt.Errorf("GitLab version %q: not <major>.<minor>", version)
	}
	minor, _, _ = strings.Cut(minor, ".")
	a, err := strconv.Atoi(major)
	if err != nil {
		return release{}, fmt.Errorf("GitLab version %q: %w", version, err)
	}
	b, err := strconv.Atoi(minor)
	if err != nil {
		return release{}, fmt.Errorf("GitLab version %q: %w", version, err)
	}
	return release{a, b}, nil
}

func (r release) atLeast(major, minor int) bool {
	return r.major > major || r.major == major && r.minor >= minor
}

func (r release) String() string { return fmt.Sprintf("%d.%d.0-ee", r.major, r.minor) }

// tokenHeaders are the headers that this version looks for an agent's token in, first one first. From 17.2 on the API layer may take
// Authorization for the credential of a user, so the newest versions do not look there at all.
func (r release) tokenHeaders() []string {
	switch {
	case r.atLeast(18, 2):
		return []string{HeaderAgentk, HeaderAgent}
	case r.atLeast(17, 2):
		return []string{HeaderAgentk, HeaderAuthorization}
	}
	return []string{HeaderAuthorization}
}

// entryCap is how many projects, and how many groups, of one list in an agent's configuration count.
func (r release) entryCap() int {
	if r.atLeast(17, 0) {
		return 500
	}
	return 100
}
