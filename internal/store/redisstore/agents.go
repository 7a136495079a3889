package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/store"
)

func (s *Store) agentKey(agentID int64) string { return s.keyOf("agents", agentID) }

// RegisterAgent implements store.Agents.
func (s *Store) RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error {
	now := s.now()
	key, name := s.agentKey(info.AgentId), strconv.FormatInt(info.ConnectionId, 10)
	var old string
	err := s.call(ctx, "register", func(ctx context.Context) error {
		var err error
		old, err = s.client.HGet(ctx, key, name).Result()
		return err
	})
	if err != nil {
		return err
	}
	if known := parseConnection([]byte(old), now); known != nil {
		info = proto.CloneOf(info)
		info.ConnectedAt = known.ConnectedAt
	}
	payload, err := proto.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode agent connection: %w", err)
	}
	end, agent := now.Add(ttl), strconv.FormatInt(info.AgentId, 10)
	puts := []put{
		{key: key, name: name, value: encode(end, payload), ttl: ttl},
		{key: s.keyOf("project", info.ProjectId), name: agent, value: encode(end, nil), ttl: ttl},
		{key: s.key("agents"), name: agent, value: encode(end, nil), ttl: ttl},
	}
	before, err := s.write(ctx, "register", puts, s.marks(now, info.AgentId))
	if err != nil {
		return err
	}
	for i, limit := range []int64{store.MaxConnectionsPerAgent, 0, 0} {
		if before[i].outgrown(limit) {
			if err := s.sweep(ctx, puts[i].key, int(limit)); err != nil {
				return err
			}
		}
	}
	return nil
}

// marks queues that agents were seen.
func (s *Store) marks(now time.Time, agentIDs ...int64) func(context.Context, redis.Pipeliner) {
	return func(ctx context.Context, pipe redis.Pipeliner) {
		for _, id := range agentIDs {
			pipe.Set(ctx, s.keyOf("seen", id), now.UnixNano(), store.LastSeenFor)
		}
	}
}

// mark writes that an agent was seen.
func (s *Store) mark(ctx context.Context, operation string, agentID int64) error {
	return s.call(ctx, operation, func(ctx context.Context) error {
		return s.client.Set(ctx, s.keyOf("seen", agentID), s.now().UnixNano(), store.LastSeenFor).Err()
	})
}

// UnregisterAgent implements store.Agents.
func (s *Store) UnregisterAgent(ctx context.Context, agentID, connectionID int64) error {
	var gone int64
	err := s.call(ctx, "unregister", func(ctx context.Context) error {
		var err error
		gone, err = s.client.HDel(ctx, s.agentKey(agentID), strconv.FormatInt(connectionID, 10)).Result()
		return err
	})
	if err != nil || gone == 0 {
		return err
	}
	return s.mark(ctx, "unregister", agentID)
}

// AgentsByID implements store.Agents.
func (s *Store) AgentsByID(ctx context.Context, agentIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	return s.connections(ctx, "agents_by_id", agentIDs, func(*agenttracker.ConnectedAgentInfo) bool { return true })
}

// AgentsByProject implements store.Agents.
func (s *Store) AgentsByProject(ctx context.Context, projectIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	const operation = "agents_by_project"
	var keys []string
	wanted := map[int64]struct{}{}
	for _, id := range distinct(projectIDs) {
		wanted[id] = struct{}{}
		keys = append(keys, s.keyOf("project", id))
	}
	hashes, err := s.read(ctx, operation, keys)
	if err != nil {
		return nil, err
	}
	var ids []int64
	for _, fields := range hashes {
		ids = append(ids, agentIDs(fields)...)
	}
	return s.connections(ctx, operation, ids, func(i *agenttracker.ConnectedAgentInfo) bool {
		_, ok := wanted[i.ProjectId]
		return ok
	})
}

// AllAgents implements store.Agents.
func (s *Store) AllAgents(ctx context.Context) ([]*agenttracker.ConnectedAgentInfo, error) {
	const operation = "all_agents"
	fields, _, err := s.scan(ctx, operation, s.key("agents"))
	if err != nil {
		return nil, err
	}
	return s.connections(ctx, operation, agentIDs(fields), func(*agenttracker.ConnectedAgentInfo) bool { return true })
}

// CountByVersion implements store.Agents.
func (s *Store) CountByVersion(ctx context.Context) (map[string]int64, error) {
	list, err := s.AllAgents(ctx)
	if err != nil {
		return nil, err
	}
	return store.CountVersions(list), nil
}

// LastSeen implements store.Agents.
func (s *Store) LastSeen(ctx context.Context, agentID int64) (time.Time, bool, error) {
	var tunnels *redis.MapStringStringCmd
	var seen *redis.StringCmd
	err := s.call(ctx, "last_seen", func(ctx context.Context) error {
		_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			tunnels = pipe.HGetAll(ctx, s.tunnelKey(agentID))
			seen = pipe.Get(ctx, s.keyOf("seen", agentID))
			return nil
		})
		return err
	})
	if err != nil {
		return time.Time{}, false, err
	}
	now := s.now()
	if live, _ := s.sort(tunnels.Val()); len(live) > 0 {
		return now, true, nil
	}
	ns, err := seen.Int64()
	if err != nil || now.Sub(time.Unix(0, ns)) > store.LastSeenFor {
		return time.Time{}, false, nil // never, too long ago, or unreadable
	}
	return time.Unix(0, ns), true, nil
}

func (s *Store) connections(
	ctx context.Context, operation string, agentIDs []int64, keep func(*agenttracker.ConnectedAgentInfo) bool,
) ([]*agenttracker.ConnectedAgentInfo, error) {
	var keys []string
	for _, id := range distinct(agentIDs) {
		keys = append(keys, s.agentKey(id))
	}
	hashes, err := s.read(ctx, operation, keys)
	if err != nil {
		return nil, err
	}
	now := s.now()
	var list []*agenttracker.ConnectedAgentInfo
	for _, fields := range hashes {
		for _, f := range fields {
			if info := parseConnection([]byte(f.raw), now); info != nil && keep(info) {
				list = append(list, info)
			}
		}
	}
	return list, nil
}

// parseConnection reads a field of P:agents:<id>; nil if it has expired or nobody can read it.
func parseConnection(raw []byte, now time.Time) *agenttracker.ConnectedAgentInfo {
	expiry, payload, ok := decode(raw)
	if !ok || !now.Before(expiry) {
		return nil
	}
	info := &agenttracker.ConnectedAgentInfo{}
	if err := proto.Unmarshal(payload, info); err != nil {
		return nil
	}
	return info
}

// agentIDs are the names of fields that are one.
func agentIDs(fields []field) []int64 {
	var ids []int64
	for _, f := range fields {
		if id, err := strconv.ParseInt(f.name, 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
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
