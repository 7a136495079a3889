package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/line"
)

// What a daemon may have more after a fault than before it: connections and timers that are about to end, and for each stream that is
// parked more, since the agents' pools shrink over minutes, what it costs at its two ends. A burst leaves an agentk with connections to its
// API server, which have to be gone within the limit too.
const (
	moreGoroutines = 20
	perStream      = 4
	moreSockets    = 6
	settleLimit    = 30 * time.Second
)

// Count is what one daemon holds.
type Count struct {
	Goroutines, Streams int
	// ToAPI are the sockets of connections to the API server, Sockets all the others.
	Sockets, ToAPI int
}

// Census is what everybody holds: all daemons that run, and Redis.
type Census struct {
	Daemons map[string]Count
	// Keys are those of agents and of their locations in Redis; nil with sentinels.
	Keys []string
	// Locations are the replicas that are said to hold streams of agents, by agent id.
	Locations map[int64][]string
}

// Take counts.
func (f *Fleet) Take(ctx context.Context) (Census, error) {
	c := Census{Daemons: map[string]Count{}, Locations: map[int64][]string{}}
	for _, k := range f.Kas {
		page, err := k.Page(ctx, "/metrics")
		if err != nil {
			return c, fmt.Errorf("%s: %w", k.Name, err)
		}
		if c.Daemons[k.Name], err = f.count(page, "kas_tunnels", k.PID()); err != nil {
			return c, fmt.Errorf("%s: %w", k.Name, err)
		}
	}
	for name := range f.Pods {
		if !f.AgentRuns(name) {
			continue
		}
		page, err := f.AgentMetrics(ctx, name)
		if err != nil {
			return c, fmt.Errorf("agentk %s: %w", name, err)
		}
		if c.Daemons["agentk-"+name], err = f.count(page, "agentk_tunnels", f.AgentPID(name)); err != nil {
			return c, fmt.Errorf("agentk %s: %w", name, err)
		}
	}
	if f.Redis == nil {
		return c, nil
	}
	keys, err := f.Redis.Keys(ctx, Prefix+":*")
	if err != nil {
		return c, err
	}
	for _, key := range keys {
		// Counters of rate limits and refusals are made for a minute, and those of who was seen for longer than any test.
		if !strings.HasPrefix(key, Prefix+":limit:") && !strings.HasPrefix(key, Prefix+":refused:") &&
			!strings.HasPrefix(key, Prefix+":seen:") {
			c.Keys = append(c.Keys, key)
		}
	}
	for _, a := range f.cfg.Agents {
		if a.PodOf != "" {
			continue
		}
		if c.Locations[a.ID], err = f.Locations(ctx, a.ID); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Locations are the private APIs that hold streams of an agent, as Redis has it.
func (f *Fleet) Locations(ctx context.Context, agentID int64) ([]string, error) {
	store, err := redisstore.New(redisstore.Config{File: &kascfg.RedisCF{
		KeyPrefix: Prefix, RedisConfig: &kascfg.RedisCF_Server{Server: &kascfg.RedisServerCF{Address: f.Redis.Address()}},
	}})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- store.Run(running) }()
	var urls []string
	err = line.Wait(ctx, func(ctx context.Context) error {
		var err error
		urls, err = store.Tunnels(ctx, agentID)
		return err
	})
	stop()
	return urls, errors.Join(err, <-done)
}

func (f *Fleet) count(page, streams string, pid int) (Count, error) {
	var c Count
	for name, add := range map[string]*int{
		"go_goroutines": &c.Goroutines, streams + `{state="idle"}`: &c.Streams, streams + `{state="busy"}`: &c.Streams,
	} {
		value, err := Sample(page, name)
		if err != nil {
			return c, err
		}
		*add += int(value)
	}
	var err error
	c.Sockets, c.ToAPI, err = sockets(pid, f.cfg.ControlPlane.URL)
	return c, err
}

// Sample reads a metric of a page; see line.Metric.
func Sample(page, name string) (float64, error) {
	text, found := line.Metric(page, name)
	if !found {
		return 0, fmt.Errorf("there is no %s", name)
	}
	return strconv.ParseFloat(text, 64)
}

// sockets counts those of a process, and apart from them those of connections to an API server.
func sockets(pid int, api string) (int, int, error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0, 0, err
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return 0, 0, err
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(api, "https://"))
	if err != nil {
		return 0, 0, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0, 0, err
	}
	others, kept := 0, 0
	toAPI := map[string]bool{}
	for row := range strings.Lines(string(table)) {
		// Number, local and remote address in hexadecimal, state, queues, timer, retransmissions, user, timeout, inode.
		if columns := strings.Fields(row); len(columns) > 9 && strings.HasSuffix(columns[2], fmt.Sprintf(":%04X", number)) {
			toAPI["socket:["+columns[9]+"]"] = true
		}
	}
	for _, link := range links {
		// One that is gone meanwhile does not count.
		switch to, err := os.Readlink(link); {
		case err != nil || !strings.HasPrefix(to, "socket:"):
		case toAPI[to]:
			kept++
		default:
			others++
		}
	}
	return others, kept, nil
}

// more says what there is more than before.
func (c Census) more(before Census) error {
	var found []error
	for name, was := range before.Daemons {
		is, runs := c.Daemons[name]
		if !runs {
			found = append(found, fmt.Errorf("%s does not run", name))
			continue
		}
		if limit := was.Goroutines + moreGoroutines + perStream*max(0, is.Streams-was.Streams); is.Goroutines > limit {
			found = append(found, fmt.Errorf("%s has %d goroutines (with %d streams), it had %d (with %d)", name, is.Goroutines, is.Streams, was.Goroutines, was.Streams))
		}
		if is.Sockets > was.Sockets+moreSockets {
			found = append(found, fmt.Errorf("%s has %d sockets, it had %d", name, is.Sockets, was.Sockets))
		}
		if is.ToAPI > was.ToAPI+moreSockets {
			found = append(found, fmt.Errorf("%s has %d connections to its API server, it had %d", name, is.ToAPI, was.ToAPI))
		}
	}
	for _, key := range c.Keys {
		if !slices.Contains(before.Keys, key) {
			found = append(found, fmt.Errorf("key %s is new in Redis", key))
		}
	}
	for id, urls := range c.Locations {
		if len(urls) > len(before.Locations[id]) {
			found = append(found, fmt.Errorf("agent %d is said to be at %v, it was at %v", id, urls, before.Locations[id]))
		}
	}
	return errors.Join(found...)
}

// Settle waits until nobody holds more than before, and fails t when that takes too long.
func (f *Fleet) Settle(t testing.TB, before Census) {
	t.Helper()
	always := context.WithoutCancel(t.Context()) // clean-ups come here
	ctx, cancel := context.WithTimeout(always, settleLimit)
	defer cancel()
	var last Census
	err := line.Wait(ctx, func(context.Context) error {
		// A question has its own time, so that the last answer is about the fleet and not about the end of the wait.
		ask, cancel := context.WithTimeout(always, settleLimit)
		defer cancel()
		var err error
		if last, err = f.Take(ask); err != nil {
			return err
		}
		return last.more(before)
	})
	if err != nil {
		t.Errorf("not everything is as before the fault: %v", err)
	}
}
