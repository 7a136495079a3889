package fleet

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

// Kas is one replica.
type Kas struct {
	*line.Replica
	// URL is the private API as the others know it: that of PeerLink.
	URL string
	// PeerLink is the way of the others to its private API; RedisLink is its own way to Redis, nil with sentinels.
	PeerLink, RedisLink *badlink.Link

	ready atomic.Bool
}

// Pod is one agentk process.
type Pod struct {
	Name string
	// Link is its way to the balancer.
	Link *badlink.Link
}

// Fleet is a running fleet. Its exported fields do not change.
type Fleet struct {
	*line.Line
	Kas  []*Kas
	Pods map[string]*Pod
	// Agents is the balancer that agents dial, Proxy the one of clients.
	Agents, Proxy *Balancer
	// Redis is the server, nil with sentinels; Sentinel is nil without.
	Redis    *redis.Server
	Sentinel *redis.Sentinel
	// Double is the cluster of the agents in Config.Doubled.
	Double *Double
	// PrivateSecret is the key with which replicas prove who they are.
	PrivateSecret []byte

	cfg                   Config
	dir                   string
	peerLinks, redisLinks []*badlink.Link
	stopWatching          context.CancelFunc
	watching              sync.WaitGroup
}

// Start brings a fleet up, and returns when all kas are ready and all agents that are not Manual are connected. ctx bounds the start, not
// the life.
func Start(ctx context.Context, cfg Config) (*Fleet, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg, Pods: map[string]*Pod{}, stopWatching: func() {}}
	for _, step := range []func(context.Context) error{f.startOutside, f.openLinks, f.startLine, f.startAgents} {
		if err := step(ctx); err != nil {
			f.Stop()
			return nil, fmt.Errorf("start fleet: %w", err)
		}
	}
	return f, nil
}

// startOutside starts what kas and agentk need and is neither.
func (f *Fleet) startOutside(ctx context.Context) error {
	var err error
	if f.dir, err = os.MkdirTemp("", "fleet"); err != nil {
		return err
	}
	if f.Double, err = startDouble(); err != nil {
		return err
	}
	f.cfg.Redis.Dir = filepath.Join(f.dir, "redis")
	if err := os.Mkdir(f.cfg.Redis.Dir, 0o700); err != nil {
		return err
	}
	if f.cfg.Sentinel {
		f.Sentinel, err = redis.StartSentinel(ctx, redis.SentinelConfig{Data: f.cfg.Redis})
		return err
	}
	f.Redis, err = redis.Start(ctx, f.cfg.Redis)
	return err
}

// openLinks opens all links and balancers. None of them leads anywhere before it is used.
func (f *Fleet) openLinks(context.Context) error {
	var err error
	if f.Agents, err = newBalancer(f.cfg.Host); err != nil {
		return err
	}
	if f.Proxy, err = newBalancer(f.cfg.Host); err != nil {
		return err
	}
	for _, a := range f.cfg.Agents {
		link, err := badlink.Listen(badlink.Config{Host: f.cfg.Host, Dial: badlink.To(f.Agents.Addr()), Parse: f.cfg.Parse})
		if err != nil {
			return err
		}
		f.Pods[a.Name] = &Pod{Name: a.Name, Link: link}
	}
	if f.Redis == nil {
		return nil
	}
	for range f.cfg.Replicas {
		link, err := badlink.Listen(badlink.Config{Dial: badlink.To(f.Redis.Address())})
		if err != nil {
			return err
		}
		f.redisLinks = append(f.redisLinks, link)
	}
	return nil
}

func (f *Fleet) startLine(ctx context.Context) error {
	ports, err := line.FreePorts(f.cfg.Replicas)
	if err != nil {
		return err
	}
	for _, port := range ports {
		private := net.JoinHostPort(f.cfg.Host, port)
		link, err := badlink.Listen(badlink.Config{Host: f.cfg.Host, Dial: badlink.To(private), Parse: f.cfg.Parse})
		if err != nil {
			return err
		}
		f.peerLinks = append(f.peerLinks, link)
	}
	cfg, err := f.lineConfig(ports)
	if err != nil {
		return err
	}
	if f.cfg.KasYAML != "" {
		for i := range cfg.Replicas {
			if cfg.Replicas[i].ExtraYAML, err = line.MergeYAML(cfg.Replicas[i].ExtraYAML, f.cfg.KasYAML); err != nil {
				return err
			}
		}
	}
	if f.Line, err = line.Start(ctx, cfg); err != nil {
		return err
	}
	var watching context.Context
	watching, f.stopWatching = context.WithCancel(context.WithoutCancel(ctx))
	var agents, proxies []*backend
	for i, r := range f.Replicas {
		k := &Kas{Replica: r, URL: "grpc://" + f.peerLinks[i].Addr(), PeerLink: f.peerLinks[i]}
		if f.redisLinks != nil {
			k.RedisLink = f.redisLinks[i]
		}
		k.ready.Store(true)
		f.Kas = append(f.Kas, k)
		agents = append(agents, &backend{name: r.Name, address: r.AgentAddress, ready: &k.ready})
		proxies = append(proxies, &backend{name: r.Name, address: r.ProxyAddress, ready: &k.ready})
		f.watching.Go(func() {
			watch(watching, &k.ready, func(ctx context.Context) error { _, err := r.Page(ctx, "/readiness"); return err })
		})
	}
	f.Agents.set(agents)
	f.Proxy.set(proxies)
	return nil
}

func (f *Fleet) startAgents(ctx context.Context) error {
	for _, a := range f.cfg.Agents {
		if a.Manual {
			continue
		}
		if err := f.StartAgent(ctx, a.Name); err != nil {
			return err
		}
	}
	return nil
}

// WaitReady waits until the balancers use a kas, or do not.
func (f *Fleet) WaitReady(ctx context.Context, k *Kas, ready bool) error {
	return line.Wait(ctx, func(context.Context) error {
		if k.ready.Load() != ready {
			return fmt.Errorf("the balancer sees that %s is ready: %t", k.Name, !ready)
		}
		return nil
	})
}

// Stop ends everything and waits for it. It may be called more than once.
func (f *Fleet) Stop() {
	if f.Line != nil {
		f.Line.Stop()
	}
	f.stopWatching()
	f.watching.Wait()
	var links []*badlink.Link
	for _, b := range []*Balancer{f.Agents, f.Proxy} {
		if b != nil && b.Link != nil {
			links = append(links, b.Link)
		}
	}
	for _, pod := range f.Pods {
		links = append(links, pod.Link)
	}
	for _, link := range append(append(links, f.peerLinks...), f.redisLinks...) {
		link.Close()
	}
	if f.Redis != nil {
		f.Redis.Close()
	}
	if f.Sentinel != nil {
		f.Sentinel.Close()
	}
	if f.Double != nil {
		f.Double.close()
	}
	if f.dir != "" {
		_ = os.RemoveAll(f.dir)
	}
}
