package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/swarm"
)

// stopPatience is how long a daemon may take to stop.
const stopPatience = 20 * time.Second

// edge is a kas whose proxy speaks TLS, an API server with events, and one agentk per link between them.
type edge struct {
	dir       string
	authority *line.Authority
	kas       *swarm.Kas
	api       *eventAPI
	agents    []*edgeAgent
}

// edgeAgent is one agentk, and the link it reaches kas through, nil if there is none.
type edgeAgent struct {
	watched
	link  *badlink.Link
	cmd   *exec.Cmd
	ended chan struct{}
}

// startEdge starts it all: one agent for each round trip time to kas; zero is without a link.
func startEdge(ctx context.Context, rtts ...time.Duration) (*edge, error) {
	dir, err := os.MkdirTemp("", "edge-")
	if err != nil {
		return nil, err
	}
	b := &edge{dir: dir}
	if err := b.start(ctx, rtts); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *edge) start(ctx context.Context, rtts []time.Duration) error {
	var err error
	if b.authority, err = line.NewAuthority(b.dir); err != nil {
		return err
	}
	certificate, key, err := b.authority.Issue("api", "127.0.0.1")
	if err != nil {
		return err
	}
	if b.api, err = startEventAPI(certificate, key); err != nil {
		return err
	}
	folder := filepath.Join(b.dir, "kas")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	k, err := swarm.NewKas(ctx, folder, len(rtts))
	if err != nil {
		return err
	}
	if err := errors.Join(k.JobsAre(ctx, len(rtts)), k.SecureProxy(b.authority)); err != nil {
		return err
	}
	if err := k.Start(ctx); err != nil {
		return err
	}
	b.kas = k
	for i, rtt := range rtts {
		a, err := b.startAgent(ctx, i, rtt)
		if a != nil {
			b.agents = append(b.agents, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// startAgent starts agent i and waits until it is connected.
func (b *edge) startAgent(ctx context.Context, i int, rtt time.Duration) (*edgeAgent, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	name := "agentk-" + strconv.Itoa(i)
	socket := filepath.Join(b.dir, name+".sock")
	a := &edgeAgent{
		watched: watched{name: name, page: func(ctx context.Context, path string) (string, error) { return unixPage(ctx, socket, path) }},
		ended:   make(chan struct{}),
	}
	address, err := a.through(b.kas, rtt)
	if err != nil {
		return a, err
	}
	kubeconfig, token := filepath.Join(b.dir, name+".kubeconfig"), filepath.Join(b.dir, name+".token")
	content := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}],
 users: [{name: u, user: {token: none}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`, b.api.url, b.authority.File)
	if err := errors.Join(os.WriteFile(kubeconfig, []byte(content), 0o600), os.WriteFile(token, []byte(swarm.Token(i)), 0o600)); err != nil {
		return a, err
	}
	binaries, err := line.Build(ctx)
	if err != nil {
		return a, err
	}
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return a, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binaries.Agentk, "--kas-address", address, "--token-file", token, "--kubeconfig", kubeconfig,
		"--observability-listen-network", "unix", "--observability-listen-address", socket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "POD_NAMESPACE=bench", "POD_NAME=" + name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return a, err
	}
	a.cmd, a.pid = cmd, cmd.Process.Pid
	go func() {
		defer close(a.ended)
		_ = cmd.Wait()
	}()
	err = line.Wait(ctx, func(ctx context.Context) error {
		_, err := a.page(ctx, "/readiness")
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name()) // what there is
		return a, fmt.Errorf("%s is not ready: %w\n%s", name, err, text)
	}
	return a, nil
}

// through is the address of kas, behind a link of its own if there is a round trip time.
func (a *edgeAgent) through(k *swarm.Kas, rtt time.Duration) (string, error) {
	if rtt == 0 {
		return k.URL, nil
	}
	link, err := badlink.Listen(badlink.Config{Dial: badlink.To(k.AgentAddress())})
	if err != nil {
		return "", err
	}
	a.link = link
	return "ws://" + link.Addr() + "/-/kubernetes-agent/", link.Set(badlink.Conditions{RTT: rtt})
}

// stop ends an agent as Kubernetes does.
func (a *edgeAgent) stop() {
	if a.cmd != nil {
		_ = syscall.Kill(-a.pid, syscall.SIGTERM)
		select {
		case <-a.ended:
		case <-time.After(stopPatience):
			_ = syscall.Kill(-a.pid, syscall.SIGKILL)
			<-a.ended
		}
		a.cmd = nil
	}
	if a.link != nil {
		a.link.Close()
		a.link = nil
	}
}

// atStart is what kas and the agents take now.
func (b *edge) atStart(ctx context.Context) ([]footprint, error) {
	var all []footprint
	for _, d := range b.daemons() {
		f, err := d.look(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// daemons are kas and the agents.
func (b *edge) daemons() []watched {
	all := []watched{{name: "kas", pid: b.kas.PID(), page: b.kas.Page}}
	for _, a := range b.agents {
		all = append(all, a.watched)
	}
	return all
}

// calm waits until all daemons have as few goroutines as at the start. Agents keep surplus streams for more than a minute; with less
// effort they are ended instead, so that only kas is looked at.
func (b *edge) calm(ctx context.Context, e effort, atStart []footprint) error {
	daemons := b.daemons()
	if !e.quick {
		for i, d := range daemons[1:] {
			if err := d.calm(ctx, atStart[i+1]); err != nil {
				return err
			}
		}
	}
	for _, a := range b.agents {
		a.stop()
	}
	return daemons[0].calm(ctx, atStart[0])
}

func (b *edge) close() {
	for _, a := range b.agents {
		a.stop()
	}
	if b.kas != nil {
		b.kas.Kill()
	}
	if b.api != nil {
		b.api.close()
	}
	_ = os.RemoveAll(b.dir)
}

// streams is how many tunnel streams the agent has, parked and busy.
func (a *edgeAgent) streams(ctx context.Context) (idle, busy float64, err error) {
	page, err := a.page(ctx, "/metrics")
	if err != nil {
		return 0, 0, err
	}
	idle, err = sample(page, `agentk_tunnels{state="idle"}`)
	if err != nil {
		return 0, 0, err
	}
	busy, err = sample(page, `agentk_tunnels{state="busy"}`)
	return idle, busy, err
}

// minimum waits until the agent is back at its minimum of streams. That takes a good minute after the last request. meanwhile is called
// every moment.
func (a *edgeAgent) minimum(ctx context.Context, meanwhile func() error) error {
	const least = 2
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		idle, busy, err := a.streams(ctx)
		if err != nil {
			return err
		}
		if idle <= least && busy == 0 {
			return nil
		}
		if err := meanwhile(); err != nil {
			return err
		}
		if err := pause(ctx, lookEvery); err != nil {
			return fmt.Errorf("%s still has %g parked streams and %g busy ones: %w", a.name, idle, busy, err)
		}
	}
}
