package line

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// KasMetrics is the metrics page of the first kas.
func (l *Line) KasMetrics(ctx context.Context) (string, error) {
	return l.KasPage(ctx, "/metrics")
}

// AgentMetrics is the metrics page of an agent.
func (l *Line) AgentMetrics(ctx context.Context, name string) (string, error) {
	return ask(ctx, l.agentSocket(name), "/metrics")
}

// KasPage is any page of kas' observability server, for example "/debug/pprof/goroutine?debug=2".
func (l *Line) KasPage(ctx context.Context, path string) (string, error) {
	r, err := l.first()
	if err != nil {
		return "", err
	}
	return r.Page(ctx, path)
}

// AgentPage is any page of an agent's observability server.
func (l *Line) AgentPage(ctx context.Context, name, path string) (string, error) {
	return ask(ctx, l.agentSocket(name), path)
}

// Metric returns a sample of a metrics page by its name with labels, exactly as the page spells it; false: there is none.
func Metric(page, name string) (string, bool) {
	for line := range strings.Lines(page) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value), true
		}
	}
	return "", false
}

// KasLog is what kas wrote so far, over all its starts.
func (l *Line) KasLog() string { return readAll(l.logPath("kas")) }

// AgentLog is what an agent wrote so far, over all its starts.
func (l *Line) AgentLog(name string) string { return readAll(l.logPath("agentk-" + name)) }

// Logs is what every daemon wrote so far, by its name: "kas", "agentk-<agent>".
func (l *Line) Logs() map[string]string {
	logs := map[string]string{}
	paths, _ := filepath.Glob(l.logPath("*")) // the pattern is well-formed
	for _, path := range paths {
		logs[strings.TrimSuffix(filepath.Base(path), ".log")] = readAll(path)
	}
	return logs
}

// WaitLog waits until a log (as a function that reads it) holds a text, and returns the line that does.
func WaitLog(ctx context.Context, log func() string, text string) (string, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		for line := range strings.Lines(log()) {
			if strings.Contains(line, text) {
				return strings.TrimSpace(line), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %q in the log: %w", text, ctx.Err())
		case <-tick.C:
		}
	}
}

// Secrets are all secrets of this run in clear, by what they are: nothing a daemon writes may hold one of them.
func (l *Line) Secrets() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	secrets := map[string]string{"administrator of the cluster": l.cfg.ControlPlane.AdminToken}
	for _, a := range l.cfg.Agents {
		secrets["token of agent "+a.Name] = a.Token
		if token := l.clusterToken[a.Name]; token != "" {
			secrets["ServiceAccount token of agent "+a.Name] = token
		}
	}
	for _, j := range l.cfg.Jobs {
		secrets[fmt.Sprintf("token of job %d", j.ID)] = j.Token
	}
	return secrets
}

func readAll(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(content)
}
