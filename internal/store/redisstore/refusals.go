package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/redis/go-redis/v9"
)

// Refuse implements store.Refusals. The key goes to Redis as a hash.
func (s *Store) Refuse(ctx context.Context, key, reason string, ttl time.Duration) error {
	value := encode(s.now().Add(ttl), []byte(reason))
	return s.call(ctx, "refuse", func(ctx context.Context) error {
		return s.client.Set(ctx, s.refusalKey(key), value, ttl).Err()
	})
}

// Refused implements store.Refusals. A value that nobody can read is none.
func (s *Store) Refused(ctx context.Context, key string) (string, time.Duration, error) {
	var answer *redis.StringCmd
	err := s.call(ctx, "refused", func(ctx context.Context) error {
		answer = s.client.Get(ctx, s.refusalKey(key))
		return answer.Err()
	})
	if err != nil || answer.Err() != nil {
		return "", 0, err
	}
	expiry, reason, ok := decode([]byte(answer.Val()))
	left := expiry.Sub(s.now())
	if !ok || left <= 0 {
		return "", 0, nil
	}
	return string(reason), left, nil
}

func (s *Store) refusalKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return s.key("refused") + ":" + hex.EncodeToString(sum[:])
}
