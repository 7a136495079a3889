package redisstore

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

func (s *Store) tunnelKey(agentID int64) string { return s.keyOf("tunnels", agentID) }

// tunnelChannel carries the ids of agents whose locations have changed.
func (s *Store) tunnelChannel() string { return s.key("tunnels") }

// removeScript removes a location and tells those who watch if it was there.
var removeScript = redis.NewScript(`
local n = redis.call('HDEL', KEYS[1], ARGV[1])
if n > 0 then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
return n`)

// AddTunnel implements store.Tunnels, in one round trip. Everybody who watches is told, whether it is news or not.
func (s *Store) AddTunnel(ctx context.Context, agentID int64, url string, ttl time.Duration) error {
	now := s.now()
	p := s.putTunnel(now, agentID, url, ttl)
	p.channel, p.message = s.tunnelChannel(), strconv.FormatInt(agentID, 10)
	before, err := s.write(ctx, "add_tunnel", []put{p}, s.marks(now, agentID))
	if err != nil {
		return err
	}
	return s.sweepTunnels(ctx, []put{p}, before)
}

// RefreshTunnels implements store.Tunnels. Only what is news is told: a location that was not there any more.
func (s *Store) RefreshTunnels(ctx context.Context, url string, ttl time.Duration, agentIDs ...int64) error {
	const operation = "refresh_tunnels"
	for part := range slices.Chunk(agentIDs, batch) {
		now := s.now()
		var puts []put
		for _, id := range part {
			puts = append(puts, s.putTunnel(now, id, url, ttl))
		}
		before, err := s.write(ctx, operation, puts, s.marks(now, part...))
		if err != nil {
			return err
		}
		var news []int64
		for i, id := range part {
			if expiry, _, ok := decode([]byte(before[i].raw)); !ok || !now.Before(expiry) {
				news = append(news, id)
			}
		}
		if err := s.tell(ctx, operation, news); err != nil {
			return err
		}
		if err := s.sweepTunnels(ctx, puts, before); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) putTunnel(now time.Time, agentID int64, url string, ttl time.Duration) put {
	return put{key: s.tunnelKey(agentID), name: url, value: encode(now.Add(ttl), nil), ttl: ttl}
}

// tell publishes that the locations of agents have changed.
func (s *Store) tell(ctx context.Context, operation string, agentIDs []int64) error {
	if len(agentIDs) == 0 {
		return nil
	}
	return s.call(ctx, operation, func(ctx context.Context) error {
		_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, id := range agentIDs {
				pipe.Publish(ctx, s.tunnelChannel(), id)
			}
			return nil
		})
		return err
	})
}

// sweepTunnels throws the locations of dead replicas out.
func (s *Store) sweepTunnels(ctx context.Context, puts []put, before []was) error {
	for i, w := range before {
		if w.outgrown(0) {
			if err := s.sweep(ctx, puts[i].key, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveTunnel implements store.Tunnels.
func (s *Store) RemoveTunnel(ctx context.Context, agentID int64, url string) error {
	var gone int64
	err := s.call(ctx, "remove_tunnel", func(ctx context.Context) error {
		var err error
		gone, err = removeScript.Run(ctx, s.client, []string{s.tunnelKey(agentID)}, url, s.tunnelChannel(), agentID).Int64()
		return err
	})
	if err != nil || gone == 0 {
		return err
	}
	return s.mark(ctx, "remove_tunnel", agentID)
}

// Tunnels implements store.Tunnels.
func (s *Store) Tunnels(ctx context.Context, agentID int64) ([]string, error) {
	hashes, err := s.read(ctx, "tunnels", []string{s.tunnelKey(agentID)})
	if err != nil {
		return nil, err
	}
	return urls(hashes[0], s.now()), nil
}

// urls are the locations that have not expired, sorted.
func urls(fields []field, now time.Time) []string {
	var list []string
	for _, f := range fields {
		if now.Before(f.expiry) {
			list = append(list, f.name)
		}
	}
	slices.Sort(list)
	return list
}
