package redisstore

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// batch is how many keys or fields one pipeline is about.
	batch = 500
	// sweepFrom is how many fields a hash has when it is first searched for expired ones.
	sweepFrom = 8
)

// putScript sets a field, makes the key live as long as the field at least, tells a channel (if one is given), and returns the old
// value and the number of fields. In a script nothing of it can be missing when the connection breaks.
var putScript = redis.NewScript(`
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return {old, redis.call('HLEN', KEYS[1])}`)

// dropScript deletes those fields that still have the value that was seen, given as pairs: nobody has written them since.
var dropScript = redis.NewScript(`
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i+1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return redis.status_reply('OK')`)

// field is one field of an expiring hash.
type field struct {
	name, raw string
	expiry    time.Time
	payload   []byte
}

// put is one field to be written.
type put struct {
	key, name string
	value     []byte
	ttl       time.Duration
	// channel is told message; empty means nobody is told.
	channel, message string
}

// was is what a put has found.
type was struct {
	// raw is the old value, empty if there was none.
	raw string
	// fields is how many fields the hash has now.
	fields int64
}

func (p put) queue(ctx context.Context, pipe redis.Pipeliner) *redis.Cmd {
	return putScript.Eval(ctx, pipe, []string{p.key}, p.name, p.value, max(p.ttl, time.Millisecond).Milliseconds(), p.channel, p.message)
}

// found reads the answer to a put.
func found(c *redis.Cmd) was {
	answer, err := c.Slice()
	if err != nil || len(answer) != 2 {
		return was{}
	}
	var w was
	w.raw, _ = answer[0].(string)
	w.fields, _ = answer[1].(int64)
	return w
}

// outgrown says whether a put may have made the hash too big: it added a field, and the hash has doubled since it was last searched or
// has more than limit fields (0: no limit).
func (w was) outgrown(limit int64) bool {
	if w.raw != "" || w.fields < sweepFrom {
		return false
	}
	return w.fields&(w.fields-1) == 0 || limit > 0 && w.fields > limit
}

// write writes fields and whatever else the caller queues, in one round trip per batch, and returns what the puts have found.
func (s *Store) write(ctx context.Context, operation string, puts []put, also func(context.Context, redis.Pipeliner)) ([]was, error) {
	var list []was
	for part := range slices.Chunk(puts, batch) {
		answers := make([]*redis.Cmd, 0, len(part))
		err := s.call(ctx, operation, func(ctx context.Context) error {
			_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				for _, p := range part {
					answers = append(answers, p.queue(ctx, pipe))
				}
				if also != nil {
					also(ctx, pipe)
				}
				return nil
			})
			return err
		})
		if err != nil {
			return list, err
		}
		also = nil
		for _, answer := range answers {
			list = append(list, found(answer))
		}
	}
	return list, nil
}

// read returns the live fields of hashes, in the order of the keys, in one round trip per batch.
func (s *Store) read(ctx context.Context, operation string, keys []string) ([][]field, error) {
	var list [][]field
	for part := range slices.Chunk(keys, batch) {
		answers := make([]*redis.MapStringStringCmd, 0, len(part))
		err := s.call(ctx, operation, func(ctx context.Context) error {
			_, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				for _, key := range part {
					answers = append(answers, pipe.HGetAll(ctx, key))
				}
				return nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, answer := range answers {
			live, _ := s.sort(answer.Val())
			list = append(list, live)
		}
	}
	return list, nil
}

// sort tells the live fields of a hash from the others. What nobody can read is among the others.
func (s *Store) sort(hash map[string]string) (live, dead []field) {
	now := s.now()
	for name, raw := range hash {
		expiry, payload, ok := decode([]byte(raw))
		f := field{name: name, raw: raw, expiry: expiry, payload: payload}
		if ok && now.Before(expiry) {
			live = append(live, f)
		} else {
			dead = append(dead, f)
		}
	}
	return live, dead
}

// scan is read for one hash that may be too big to be sent at once.
func (s *Store) scan(ctx context.Context, operation, key string) (live, dead []field, err error) {
	hash := map[string]string{}
	for cursor := uint64(0); ; {
		err := s.call(ctx, operation, func(ctx context.Context) error {
			pairs, next, err := s.client.HScan(ctx, key, cursor, "", 2*batch).Result()
			for pair := range slices.Chunk(pairs, 2) {
				if len(pair) == 2 {
					hash[pair[0]] = pair[1]
				}
			}
			cursor = next
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		if cursor == 0 {
			live, dead = s.sort(hash)
			return live, dead, nil
		}
	}
}

// sweep throws out what has expired, and of the rest what would expire first, until limit fields are left (0: no limit).
func (s *Store) sweep(ctx context.Context, key string, limit int) error {
	live, dead, err := s.scan(ctx, "sweep", key)
	if err != nil {
		return err
	}
	if limit > 0 && len(live) > limit {
		slices.SortFunc(live, func(a, b field) int { return a.expiry.Compare(b.expiry) })
		dead = append(dead, live[:len(live)-limit]...)
	}
	for part := range slices.Chunk(dead, batch) {
		var args []any
		for _, f := range part {
			args = append(args, f.name, f.raw)
		}
		err := s.call(ctx, "sweep", func(ctx context.Context) error {
			return dropScript.Run(ctx, s.client, []string{key}, args...).Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
