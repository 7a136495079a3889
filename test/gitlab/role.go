package gitlab

import (
	"fmt"
	"strings"
)

// Role is a member's level in a project or group.
type Role int

// Roles, with GitLab's levels.
const (
	NoAccess   Role = 0
	Guest      Role = 10
	Planner    Role = 15
	Reporter   Role = 20
	Developer  Role = 30
	Maintainer Role = 40
	Owner      Role = 50
)

type membership struct {
	user int64
	path string // of a group or project, lower case
}

// AddMember gives a user a role in a group or project; NoAccess takes it away.
func (g *GitLab) AddMember(username, path string, role Role) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	user := g.db.user(username)
	if user == nil {
		return fmt.Errorf("user %q: %w", username, ErrNotFound)
	}
	if g.db.group(path) == nil && g.db.project(path) == nil {
		return fmt.Errorf("group or project %q: %w", path, ErrNotFound)
	}
	g.db.members[membership{user.ID, strings.ToLower(path)}] = role
	return nil
}

// role is what a user is in a project or group, by its own members or those of a group around it.
func (d *database) role(user *User, path string) Role {
	if strings.EqualFold(rootOf(path), user.Username) {
		return Owner
	}
	highest := NoAccess
	for ; path != ""; path = parentOf(path) {
		highest = max(highest, d.members[membership{user.ID, strings.ToLower(path)}])
	}
	return highest
}

// roleNames are the names of all roles up to a level, lowest first.
func (r release) roleNames(level Role) []string {
	names := []string{}
	for _, role := range []struct {
		level Role
		name  string
	}{{Guest, "guest"}, {Planner, "planner"}, {Reporter, "reporter"}, {Developer, "developer"}, {Maintainer, "maintainer"}, {Owner, "owner"}} {
		if role.level > level || role.level == Planner && !r.atLeast(17, 7) {
			continue
		}
		names = append(names, role.name)
	}
	return names
}
