package gitlab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ErrNotFound says that something was named that is not there.
var ErrNotFound = errors.New("not found")

// Visibility of a project.
type Visibility string

// Visibilities.
const (
	Private Visibility = "private"
	Public  Visibility = "public"
)

// Group is a group. Its path is the full one.
type Group struct {
	ID   int64
	Path string
}

// User is a person. A personal namespace is the user's name as first part of a project's path.
type User struct {
	ID       int64
	Username string
	Blocked  bool
}

// Project is a project. Groups around it that are not there yet come with it.
type Project struct {
	ID   int64
	Path string
	// Visibility is by default Private.
	Visibility Visibility
	// DefaultBranch is by default main.
	DefaultBranch string
	// ProtectedRefs are names or patterns of protected branches and tags; by default the default branch.
	ProtectedRefs []string
}

// database is what a real GitLab keeps in PostgreSQL and Redis.
type database struct {
	lastID   int64
	groups   map[int64]*Group
	projects map[int64]*Project
	users    map[int64]*User
	members  map[membership]Role
	agents   map[int64]*agent
	jobs     map[int64]*job
	envs     map[int64]map[string]*Environment // by project and name
	pats     []*PAT
	sessions map[string]*session // by public id
	counters map[string]int64
	uniques  map[string]map[int64]bool
	events   map[string][]map[string]any
	pushes   []PushNotification
}

func newDatabase() database {
	return database{
		groups: map[int64]*Group{}, projects: map[int64]*Project{}, users: map[int64]*User{}, members: map[membership]Role{},
		agents: map[int64]*agent{}, jobs: map[int64]*job{}, envs: map[int64]map[string]*Environment{}, sessions: map[string]*session{},
		counters: map[string]int64{}, uniques: map[string]map[int64]bool{}, events: map[string][]map[string]any{},
	}
}

// firstID is where ids that nobody chose begin: high, so that they do not meet those that tests choose.
const firstID = 100_000

// id returns the wanted id, or a fresh one for 0.
func (d *database) id(wanted int64) int64 {
	if wanted != 0 {
		return wanted
	}
	d.lastID++
	return firstID + d.lastID
}

// AddGroup adds a group and its parents.
func (g *GitLab) AddGroup(group Group) (Group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.db.addGroup(group)
}

func (d *database) addGroup(group Group) (Group, error) {
	if group.Path == "" {
		return Group{}, errors.New("a group needs a path")
	}
	if d.group(group.Path) != nil || d.project(group.Path) != nil {
		return Group{}, fmt.Errorf("path %q is taken", group.Path)
	}
	if parent := parentOf(group.Path); parent != "" && d.group(parent) == nil {
		if _, err := d.addGroup(Group{Path: parent}); err != nil {
			return Group{}, err
		}
	}
	group.ID = d.id(group.ID)
	if d.groups[group.ID] != nil {
		return Group{}, fmt.Errorf("group id %d is taken", group.ID)
	}
	d.groups[group.ID] = &group
	return group, nil
}

// AddUser adds a user.
func (g *GitLab) AddUser(user User) (User, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user.ID = g.db.id(user.ID)
	if user.Username == "" || g.db.user(user.Username) != nil || g.db.users[user.ID] != nil {
		return User{}, fmt.Errorf("user %d %q: no name, or taken", user.ID, user.Username)
	}
	g.db.users[user.ID] = &user
	return user, nil
}

// BlockUser blocks a user.
func (g *GitLab) BlockUser(username string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	user := g.db.user(username)
	if user == nil {
		return fmt.Errorf("user %q: %w", username, ErrNotFound)
	}
	user.Blocked = true
	return nil
}

func (d *database) addProject(p Project) (*Project, error) {
	parent := parentOf(p.Path)
	if parent == "" {
		return nil, fmt.Errorf("project path %q has no namespace", p.Path)
	}
	if d.group(p.Path) != nil || d.project(p.Path) != nil {
		return nil, fmt.Errorf("path %q is taken", p.Path)
	}
	if d.user(parent) == nil && d.group(parent) == nil {
		if _, err := d.addGroup(Group{Path: parent}); err != nil {
			return nil, err
		}
	}
	p.ID = d.id(p.ID)
	if d.projects[p.ID] != nil {
		return nil, fmt.Errorf("project id %d is taken", p.ID)
	}
	if p.Visibility == "" {
		p.Visibility = Private
	}
	if p.DefaultBranch == "" {
		p.DefaultBranch = "main"
	}
	if p.ProtectedRefs == nil {
		p.ProtectedRefs = []string{p.DefaultBranch}
	}
	d.projects[p.ID] = &p
	return &p, nil
}

func (d *database) group(path string) *Group {
	for _, g := range d.groups {
		if strings.EqualFold(g.Path, path) {
			return g
		}
	}
	return nil
}

func (d *database) project(path string) *Project {
	for _, p := range d.projects {
		if strings.EqualFold(p.Path, path) {
			return p
		}
	}
	return nil
}

func (d *database) user(username string) *User {
	for _, u := range d.users {
		if strings.EqualFold(u.Username, username) {
			return u
		}
	}
	return nil
}

// groupsOf are the groups around a path, nearest first. A personal namespace is none.
func (d *database) groupsOf(path string) []*Group {
	var around []*Group
	for parent := parentOf(path); parent != ""; parent = parentOf(parent) {
		if group := d.group(parent); group != nil {
			around = append(around, group)
		}
	}
	return around
}

// sortedAgents are the agents in the order in which they were registered.
func (d *database) sortedAgents() []*agent {
	return slices.SortedFunc(maps.Values(d.agents), func(a, b *agent) int { return int(a.ID - b.ID) })
}

func parentOf(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }

func rootOf(path string) string {
	root, _, _ := strings.Cut(path, "/")
	return root
}

// stamp is how Rails writes times.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
