package store

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

type connection struct {
	info   *agenttracker.ConnectedAgentInfo
	expiry time.Time
}

// connectionKey finds a connection: connection ids are chosen by agents and not unique across them.
type connectionKey struct{ agent, connection int64 }

// RegisterAgent implements Agents.
func (m *Memory) RegisterAgent(_ context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error {
	info = proto.CloneOf(info)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	key := connectionKey{agent: info.AgentId, connection: info.ConnectionId}
	if old, ok := m.agents[key.agent][key.connection]; ok {
		if now.Before(old.expiry) {
			info.ConnectedAt = old.info.ConnectedAt
		}
		m.forget(key)
	}
	m.makeRoom(key.agent)
	connections := m.agents[key.agent]
	if connections == nil {
		connections = map[int64]connection{}
		m.agents[key.agent] = connections
	}
	connections[key.connection] = connection{info: info, expiry: now.Add(ttl)}
	project := m.projects[info.ProjectId]
	if project == nil {
		project = map[connectionKey]struct{}{}
		m.projects[info.ProjectId] = project
	}
	project[key] = struct{}{}
	m.seen.mark(key.agent, now)
	return nil
}

// makeRoom keeps one agent, whose pods choose their own connection ids, from filling the store.
func (m *Memory) makeRoom(agentID int64) {
	if len(m.agents[agentID]) < MaxConnectionsPerAgent {
		return
	}
	var first int64
	var expiry time.Time
	for id, c := range m.agents[agentID] {
		if expiry.IsZero() || c.expiry.Before(expiry) {
			first, expiry = id, c.expiry
		}
	}
	m.forget(connectionKey{agent: agentID, connection: first})
}

// forget removes a connection from both indexes. mu is held.
func (m *Memory) forget(key connectionKey) {
	c, ok := m.agents[key.agent][key.connection]
	if !ok {
		return
	}
	delete(m.agents[key.agent], key.connection)
	if len(m.agents[key.agent]) == 0 {
		delete(m.agents, key.agent)
	}
	project := m.projects[c.info.ProjectId]
	delete(project, key)
	if len(project) == 0 {
		delete(m.projects, c.info.ProjectId)
	}
}

// UnregisterAgent implements Agents.
func (m *Memory) UnregisterAgent(_ context.Context, agentID, connectionID int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	if _, ok := m.agents[agentID][connectionID]; ok {
		m.forget(connectionKey{agent: agentID, connection: connectionID})
		m.seen.mark(agentID, now)
	}
	return nil
}

// AgentsByID implements Agents.
func (m *Memory) AgentsByID(_ context.Context, agentIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var found []*agenttracker.ConnectedAgentInfo
	for _, id := range distinct(agentIDs) {
		for _, c := range m.agents[id] {
			if now.Before(c.expiry) {
				found = append(found, c.info)
			}
		}
	}
	return found, nil
}

// AgentsByProject implements Agents.
func (m *Memory) AgentsByProject(_ context.Context, projectIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var found []*agenttracker.ConnectedAgentInfo
	for _, id := range distinct(projectIDs) {
		for key := range m.projects[id] {
			if c := m.agents[key.agent][key.connection]; now.Before(c.expiry) {
				found = append(found, c.info)
			}
		}
	}
	return found, nil
}

// AllAgents implements Agents.
func (m *Memory) AllAgents(context.Context) ([]*agenttracker.ConnectedAgentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var found []*agenttracker.ConnectedAgentInfo
	for _, connections := range m.agents {
		for _, c := range connections {
			if now.Before(c.expiry) {
				found = append(found, c.info)
			}
		}
	}
	return found, nil
}

// CountByVersion implements Agents.
func (m *Memory) CountByVersion(ctx context.Context) (map[string]int64, error) {
	list, err := m.AllAgents(ctx)
	if err != nil {
		return nil, err
	}
	return CountVersions(list), nil
}

// CountVersions counts, for each version, the agents that have a connection of that version in the list.
func CountVersions(list []*agenttracker.ConnectedAgentInfo) map[string]int64 {
	type pair struct {
		agentID int64
		version string
	}
	seen := map[pair]struct{}{}
	counts := map[string]int64{}
	for _, info := range list {
		p := pair{agentID: info.AgentId, version: info.GetAgentMeta().GetVersion()}
		if _, ok := seen[p]; !ok {
			seen[p] = struct{}{}
			counts[p.version]++
		}
	}
	return counts
}

// LastSeen implements Agents.
func (m *Memory) LastSeen(_ context.Context, agentID int64) (time.Time, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, expiry := range m.tunnels[agentID] {
		if now.Before(expiry) {
			return now, true, nil
		}
	}
	at, ok := m.seen.at(agentID)
	if !ok || now.Sub(at) > LastSeenFor {
		return time.Time{}, false, nil
	}
	return at, true, nil
}

func (m *Memory) sweepAgents(now time.Time) {
	for agentID, connections := range m.agents {
		for id, c := range connections {
			if !now.Before(c.expiry) {
				m.forget(connectionKey{agent: agentID, connection: id})
			}
		}
	}
	m.seen.dropBefore(now.Add(-LastSeenFor))
}

func distinct(ids []int64) []int64 {
	known := make(map[int64]struct{}, len(ids))
	var list []int64
	for _, id := range ids {
		if _, ok := known[id]; !ok {
			known[id] = struct{}{}
			list = append(list, id)
		}
	}
	return list
}
