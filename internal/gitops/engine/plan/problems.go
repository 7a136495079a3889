package plan

import (
	"fmt"
	"strings"
)

// maxNamed bounds how many objects an error names.
const maxNamed = 10

// Problems is an error that names objects.
type Problems []*Problem

// Error names the first objects and counts the others.
func (p Problems) Error() string {
	named := make([]string, 0, maxNamed)
	for _, one := range p[:min(len(p), maxNamed)] {
		named = append(named, one.Error())
	}
	text := strings.Join(named, "; ")
	if rest := len(p) - maxNamed; rest > 0 {
		text += fmt.Sprintf("; and %d more", rest)
	}
	return text
}

// User says that mending every problem takes another commit.
func (p Problems) User() bool {
	for _, one := range p {
		if !one.User {
			return false
		}
	}
	return len(p) > 0
}
