package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// askLimit bounds one question to a daemon's observability server.
const askLimit = 5 * time.Second

// StartKas starts kas and waits until it is ready. It may be called again after StopKas or KillKas; addresses stay the same.
func (l *Line) StartKas(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	l.mu.Lock()
	running := l.kas != nil && !l.kas.ended()
	l.mu.Unlock()
	if running {
		return errors.New("line: kas runs already")
	}
	home, err := l.home("kas")
	if err != nil {
		return err
	}
	p, err := spawn("kas", l.logPath("kas"), l.Dir, plainEnvironment(home), l.cfg.Binaries.Kas, "--configuration-file", l.KasFile)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.kas = p
	l.mu.Unlock()
	return p.wait(ctx, "readiness", func(ctx context.Context) error { return ready(ctx, l.path("kas.sock")) })
}

// StopKas sends SIGTERM and waits for the end, KillKas sends SIGKILL.
func (l *Line) StopKas(ctx context.Context) (Exit, error) { return l.signalKas(ctx, syscall.SIGTERM) }

// KillKas ends kas without warning.
func (l *Line) KillKas(ctx context.Context) (Exit, error) { return l.signalKas(ctx, syscall.SIGKILL) }

func (l *Line) signalKas(ctx context.Context, signal syscall.Signal) (Exit, error) {
	l.mu.Lock()
	p := l.kas
	l.mu.Unlock()
	if p == nil {
		return Exit{}, fmt.Errorf("kas: %w", errNotRunning)
	}
	return p.signal(ctx, signal)
}

// StartAgent starts an agent and waits until it is ready, which it is when it is connected to kas.
func (l *Line) StartAgent(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := l.SpawnAgent(name); err != nil {
		return err
	}
	p, err := l.agentProcess(name)
	if err != nil {
		return err
	}
	return p.wait(ctx, "readiness", func(ctx context.Context) error { return ready(ctx, l.agentSocket(name)) })
}

// SpawnAgent starts an agent and waits for nothing: for one that is not expected to become ready. See WaitAgent.
func (l *Line) SpawnAgent(name string) error {
	a, err := l.agent(name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.agents[name]; p != nil && !p.ended() {
		return fmt.Errorf("line: agent %s runs already", name)
	}
	home, err := l.home("agentk-" + name)
	if err != nil {
		return err
	}
	pod := "gitlab-agent-0"
	if a.PodOf != "" {
		pod = "gitlab-agent-" + name
	}
	env := append(plainEnvironment(home), "POD_NAMESPACE="+namespaceOf(a.owner()), "POD_NAME="+pod)
	command := slices.Concat(a.Wrap, []string{l.cfg.Binaries.Agentk}, l.agentArgs(a))
	p, err := spawn("agentk "+name, l.logPath("agentk-"+name), l.Dir, append(env, a.Env...), command[0], command[1:]...)
	if err != nil {
		return err
	}
	l.agents[name] = p
	return nil
}

// WaitAgent waits until an agent has ended by itself.
func (l *Line) WaitAgent(ctx context.Context, name string) (Exit, error) {
	return l.signalAgent(ctx, name, 0)
}

func (l *Line) agentArgs(a Agent) []string {
	address := a.KasAddress
	if address == "" {
		address = l.KasAddress()
	}
	args := []string{
		"--kas-address", address,
		"--token-file", l.path("tokens/" + a.Name),
		"--kubeconfig", l.kubeconfigs[a.Name],
		"--observability-listen-network", "unix", "--observability-listen-address", l.agentSocket(a.Name),
	}
	if strings.HasPrefix(address, WSS) || strings.HasPrefix(address, GRPCS) {
		args = append(args, "--kas-ca-cert-file", l.Authority.File)
	}
	if a.Power == TokenOnly {
		args = append(args, "--impersonation-service-account", namespaceOf(a.owner())+"/"+impersonator)
	}
	return append(args, a.Args...)
}

// KasAddress is where agents reach kas, in the scheme of this line.
func (l *Line) KasAddress() string {
	address := l.cfg.Scheme + "://" + l.AgentAddress
	if l.cfg.Scheme == WS || l.cfg.Scheme == WSS {
		address += "/-/kubernetes-agent/"
	}
	return address
}

// SetAgent changes how an agent is started the next time, and its token file at once.
func (l *Line) SetAgent(name string, change func(*Agent)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.cfg.Agents {
		if a := &l.cfg.Agents[i]; a.Name == name {
			change(a)
			return os.WriteFile(l.path("tokens/"+name), []byte(a.Token+"\n"), 0o600)
		}
	}
	return fmt.Errorf("line: no agent %q", name)
}

// StopAgent sends SIGTERM and waits for the end.
func (l *Line) StopAgent(ctx context.Context, name string) (Exit, error) {
	return l.signalAgent(ctx, name, syscall.SIGTERM)
}

// KillAgent ends an agent without warning.
func (l *Line) KillAgent(ctx context.Context, name string) (Exit, error) {
	return l.signalAgent(ctx, name, syscall.SIGKILL)
}

// FreezeAgent stops an agent's process without ending it (SIGSTOP), ThawAgent lets it go on: the peer that is there and says nothing.
func (l *Line) FreezeAgent(name string) error { return l.pokeAgent(name, syscall.SIGSTOP) }

// ThawAgent undoes FreezeAgent.
func (l *Line) ThawAgent(name string) error { return l.pokeAgent(name, syscall.SIGCONT) }

func (l *Line) pokeAgent(name string, signal syscall.Signal) error {
	p, err := l.agentProcess(name)
	if err != nil {
		return err
	}
	return syscall.Kill(-p.cmd.Process.Pid, signal)
}

func (l *Line) signalAgent(ctx context.Context, name string, signal syscall.Signal) (Exit, error) {
	p, err := l.agentProcess(name)
	if err != nil {
		return Exit{}, err
	}
	return p.signal(ctx, signal)
}

func (l *Line) agentProcess(name string) (*process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.agents[name]
	if p == nil {
		return nil, fmt.Errorf("agent %s: %w", name, errNotRunning)
	}
	return p, nil
}

// KasPID is the process id of kas, 0 if it was never started.
func (l *Line) KasPID() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kas == nil {
		return 0
	}
	return l.kas.cmd.Process.Pid
}

// AgentPID is the process id of an agent, 0 if it was never started.
func (l *Line) AgentPID(name string) int {
	p, err := l.agentProcess(name)
	if err != nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// home is a folder of its own for everybody: what one leaves there, nobody else finds.
func (l *Line) home(name string) (string, error) {
	dir := l.path("homes/" + name)
	return dir, os.MkdirAll(dir, 0o700)
}

func (l *Line) agentSocket(name string) string { return l.path("agentk-" + name + ".sock") }

func (l *Line) logPath(name string) string { return l.path("logs/" + name + ".log") }

func ready(ctx context.Context, socket string) error {
	_, err := ask(ctx, socket, "/readiness")
	return err
}

// ask gets a page of an observability server. Any status but 200 is an error that carries the page.
func ask(ctx context.Context, socket, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://observability"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := onUnix(socket).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: HTTP status %d: %s", path, response.StatusCode, content)
	}
	return string(content), nil
}
