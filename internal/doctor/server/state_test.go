package server

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// redisSaying is a connection to a Redis with one answer to ROLE and one to INFO.
func redisSaying(t *testing.T, role, info string) *redisConn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			answer := map[string]string{"ROLE": role, "INFO": info}[lines.Text()]
			if answer == "" {
				continue
			}
			if _, err := theirs.Write([]byte(answer)); err != nil {
				return
			}
		}
	}()
	if err := ours.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	return newRedisConn(ours)
}

func TestRedisState(t *testing.T) {
	const master, replica = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", "*5\r\n$5\r\nslave\r\n$4\r\nhost\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n"
	info := func(lines ...string) string {
		text := strings.Join(lines, "\r\n")
		return "$" + strconv.Itoa(len(text)) + "\r\n" + text + "\r\n"
	}
	for name, c := range map[string]struct {
		role, info, cause string
		status            doctor.Status
	}{
		"well":          {master, info("redis_version:7.0.1", "role:master", "used_memory:1048576", "maxmemory:0"), "", doctor.OK},
		"replica":       {replica, info("role:slave"), "redis-role", doctor.Fail},
		"full":          {master, info("used_memory:95", "maxmemory:100"), "redis-state", doctor.Warn},
		"loading":       {master, info("loading:1"), "redis-state", doctor.Warn},
		"may not ask":   {"-NOPERM no\r\n", "-NOPERM no\r\n", "", doctor.OK},
		"strange words": {master, info("used_memory:many", "maxmemory:few", "no colon"), "", doctor.OK},
	} {
		if o := redisSaying(t, c.role, c.info).state("redis:6379"); o.Status != c.status || o.Cause != c.cause {
			t.Errorf("%s: %+v", name, o)
		}
	}
}
