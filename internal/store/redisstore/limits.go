package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// allowScript counts a call unless there were enough.
var allowScript = redis.NewScript(`
local n = tonumber(redis.call('GET', KEYS[1]) or '0')
if n >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[1])
if n == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1`)

// Allow implements store.Limits, in one round trip. The key goes to Redis as a hash.
func (s *Store) Allow(ctx context.Context, key string, limit uint32, window time.Duration) (bool, error) {
	now := s.now().UTC()
	start := now.Truncate(window)
	sum := sha256.Sum256([]byte(key))
	name := fmt.Sprintf("%s:%s:%d", s.key("limit"), hex.EncodeToString(sum[:16]), start.Unix())
	// The second more is for clocks of replicas that differ.
	ttl := start.Add(window).Sub(now) + time.Second
	var admitted int64
	err := s.call(ctx, "allow", func(ctx context.Context) error {
		var err error
		admitted, err = allowScript.Run(ctx, s.client, []string{name}, limit, ttl.Milliseconds()).Int64()
		return err
	})
	return admitted == 1, err
}
