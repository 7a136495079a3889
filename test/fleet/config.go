package fleet

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

const (
	// Job is the one job, of Project, that may use every agent.
	Job     = 9001
	Project = "acme/shop"
	// Prefix starts all keys in Redis.
	Prefix = "fleet"
)

// Config says what a fleet consists of. Only ControlPlane is required.
type Config struct {
	ControlPlane *kube.ControlPlane
	// Replicas is the number of kas, by default 2.
	Replicas int
	// Agents are by default one, "demo", with one process. Their configuration lets the job in as itself.
	Agents []line.Agent
	// Doubled are the agents, by name, whose cluster is the double.
	Doubled []string
	// Scheme of the agents' way to kas, by default ws.
	Scheme string
	// Host is an IP address of this machine, on which everything but Redis listens; by default 127.0.0.1.
	Host string
	// Redis configures the server; with Sentinel it is that of the data servers, and there are no links to Redis.
	Redis    redis.Config
	Sentinel bool
	// KasYAML is merged over the configuration file of every kas.
	KasYAML string
	// Env is added to the environment of every kas and every agent.
	Env []string
	// Programs replaces the program of some kas, by its number.
	Programs map[int]string
	// Parse makes the agents' and the peers' links find places in the protocols, see badlink.Link.Cut.
	Parse bool
}

func (c *Config) complete() error {
	if c.ControlPlane == nil {
		return errors.New("fleet: a control plane is required")
	}
	if c.Replicas == 0 {
		c.Replicas = 2
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.Agents == nil {
		c.Agents = []line.Agent{{ID: 7, Name: "demo", Project: "acme/infra"}}
	}
	if c.Scheme == "" {
		c.Scheme = line.WS
	}
	return nil
}

// timers are those of kas that are made for a world in which minutes pass: here everything that is announced lives for seconds. The
// balancer looks ten times during the grace period of the listeners.
const timers = `
agent:
  listen: {listen_grace_period: 1s}
  kubernetes_api: {listen: {listen_grace_period: 1s, shutdown_grace_period: 10s}}
  redis_conn_info_ttl: 6s
  redis_conn_info_refresh: 2s
  redis_conn_info_gc: 12s
`

// lineConfig is what package line is to start. The agents are started later, when the balancer knows the kas.
func (f *Fleet) lineConfig(privatePorts []string) (line.Config, error) {
	secret, err := f.writeSecret()
	if err != nil {
		return line.Config{}, err
	}
	cfg := line.Config{
		ControlPlane: f.cfg.ControlPlane, Scheme: f.cfg.Scheme, Host: f.cfg.Host, ProxyFront: f.Proxy.Addr(),
		Jobs:         []line.Job{{ID: Job, Project: Project}},
		ExtraKasYAML: timers,
	}
	for _, a := range f.cfg.Agents {
		if a.Config == "" && a.PodOf == "" {
			a.Config = line.CIAccess("{ci_job: {}}", Project)
		}
		if a.KasAddress == "" {
			a.KasAddress = f.address(f.Pods[a.Name].Link.Addr())
		}
		if slices.Contains(f.cfg.Doubled, a.Name) {
			args, err := f.Double.args()
			if err != nil {
				return line.Config{}, err
			}
			a.Args = append(slices.Clone(a.Args), args...)
		}
		a.Env = slices.Concat(a.Env, f.cfg.Env)
		a.Manual = true
		cfg.Agents = append(cfg.Agents, a)
	}
	for i, port := range privatePorts {
		cfg.Replicas = append(cfg.Replicas, line.ReplicaConfig{
			ExtraYAML: f.sharedSections(i, net.JoinHostPort(f.cfg.Host, port), secret),
			Env:       append([]string{"OWN_PRIVATE_API_URL=grpc://" + f.peerLinks[i].Addr()}, f.cfg.Env...),
			Program:   f.cfg.Programs[i],
		})
	}
	return cfg, nil
}

// sharedSections are what makes a kas one of several, and the caller's own.
func (f *Fleet) sharedSections(i int, private, secret string) string {
	where := ""
	if f.Sentinel != nil {
		where = fmt.Sprintf("sentinel: {master_name: %s, addresses: [%q, %q, %q]}", redis.MasterName,
			f.Sentinel.Addresses()[0], f.Sentinel.Addresses()[1], f.Sentinel.Addresses()[2])
	} else {
		where = fmt.Sprintf("server: {address: %q}", f.redisLinks[i].Addr())
	}
	sections := fmt.Sprintf(`
redis: {%s, key_prefix: %s}
private_api: {listen: {address: %q, authentication_secret_file: %q, listen_grace_period: 1s}}
`, where, Prefix, private, secret)
	return sections
}

func (f *Fleet) writeSecret() (string, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	f.PrivateSecret = key
	path := filepath.Join(f.dir, "private-api-secret")
	return path, os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)), 0o600)
}

// address is a way to kas in the scheme of the fleet.
func (f *Fleet) address(hostPort string) string {
	address := f.cfg.Scheme + "://" + hostPort
	if f.cfg.Scheme == line.WS || f.cfg.Scheme == line.WSS {
		address += "/-/kubernetes-agent/"
	}
	return address
}
