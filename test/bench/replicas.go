package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/internal/standalone"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

const (
	// warmAgent serves all the time, coldAgents come once each, absentAgents never.
	warmAgent    = 1
	coldFirst    = 1001
	coldAgents   = 12
	absentFirst  = 2001
	absentAgents = 500

	startLimit = 30 * time.Second
	jobToken   = "glcbt-bench"
)

func agentToken(id int) string { return fmt.Sprintf("glagent-bench-%d", id) }

// replicas are two kas and the Redis that they share. Their agents are spoken for by this process, so that what is measured is kas.
type replicas struct {
	dir   string
	redis *redis.Server
	kas   [2]*exec.Cmd
	// agents and proxy are the listeners of each.
	agents, proxy [2]string
	client        *http.Client
}

// startReplicas starts them in a folder, which has to be empty.
func startReplicas(ctx context.Context, dir string) (*replicas, error) {
	r := &replicas{dir: dir, client: newClient(nil)}
	r.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 2 * absentAgents
	if err := r.start(ctx); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *replicas) start(ctx context.Context) error {
	binaries, err := line.Build(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.dir, "redis")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if r.redis, err = redis.Start(ctx, redis.Config{Dir: dir}); err != nil {
		return err
	}
	if err := r.repository(ctx); err != nil {
		return err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	if err := os.WriteFile(filepath.Join(r.dir, "secret"), []byte(base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
		return err
	}
	for i := range r.kas {
		if err := r.startKas(ctx, binaries.Kas, i); err != nil {
			return err
		}
	}
	return nil
}

// repository configures all agents, which are of one project.
func (r *replicas) repository(ctx context.Context) error {
	work := filepath.Join(r.dir, "work")
	for _, id := range allAgents() {
		folder := filepath.Join(work, ".gitlab", "agents", fmt.Sprintf("a%d", id))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, "config.yaml"), []byte("ci_access: {projects: [{id: acme/shop}]}\n"), 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", filepath.Join(r.dir, "repos", "acme", "infra.git")},
		{"-C", work, "init", "-q", "-b", "main"},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=bench", "-c", "user.email=bench@example.com", "commit", "-q", "-m", "agents"},
		{"-C", work, "push", "-q", filepath.Join(r.dir, "repos", "acme", "infra.git"), "main"},
	} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

func allAgents() []int {
	ids := []int{warmAgent}
	for i := range coldAgents {
		ids = append(ids, coldFirst+i)
	}
	for i := range absentAgents {
		ids = append(ids, absentFirst+i)
	}
	return ids
}

// startKas starts one and waits until it is ready.
func (r *replicas) startKas(ctx context.Context, program string, i int) error {
	var err error
	if r.agents[i], err = freeAddress(); err != nil {
		return err
	}
	if r.proxy[i], err = freeAddress(); err != nil {
		return err
	}
	observe := r.observe(i)
	var agents strings.Builder
	for _, id := range allAgents() {
		fmt.Fprintf(&agents, "  - {id: %d, name: a%d, project: acme/infra, token_sha256: [%s]}\n", id, id, standalone.HashToken(agentToken(id)))
	}
	file := filepath.Join(r.dir, fmt.Sprintf("kas-%d.yaml", i))
	content := fmt.Sprintf(`
agent: {listen: {address: %q, websocket: true}, kubernetes_api: {listen: {address: %q}, url_path_prefix: /k8s-proxy/}}
observability: {listen: {network: unix, address: %q}, logging: {level: warn}}
redis: {server: {address: %q}}
private_api: {listen: {address: "127.0.0.1:0", authentication_secret_file: %q}}
standalone:
  repositories_dir: %q
  projects: [{id: 10, path: acme/infra, groups: [{id: 1, path: acme}]}, {id: 11, path: acme/shop, groups: [{id: 1, path: acme}]}]
  jobs: [{id: 9001, token_sha256: %s, pipeline: 801, project: acme/shop, user: {id: 3, username: ci-user}}]
  agents:
%s`, r.agents[i], r.proxy[i], observe, r.redis.Address(), filepath.Join(r.dir, "secret"), filepath.Join(r.dir, "repos"),
		standalone.HashToken(jobToken), agents.String())
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return err
	}
	log := &bytes.Buffer{}
	cmd := exec.Command(program, "--configuration-file", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.kas[i] = cmd
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", observe)
	}}}
	for deadline := time.Now().Add(startLimit); ; {
		resp, err := client.Get("http://kas/readiness")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) {
			r.kill(i) // ends what writes the log
			return fmt.Errorf("kas %d does not get ready: %w\n%s", i, err, log)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *replicas) observe(i int) string {
	return filepath.Join(r.dir, fmt.Sprintf("observe-%d.sock", i))
}

// daemons are both kas. Each follows the way to every agent that it was asked for and does not hold, with two goroutines, for five minutes.
func (r *replicas) daemons() []watched {
	var all []watched
	for i, cmd := range r.kas {
		all = append(all, watched{
			name: fmt.Sprintf("kas %d", i), pid: cmd.Process.Pid,
			page: func(ctx context.Context, path string) (string, error) { return unixPage(ctx, r.observe(i), path) },
			kept: float64(2 * len(allAgents())),
		})
	}
	return all
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// through is an agent's cluster as the job reaches it through one of the kas.
func (r *replicas) through(i, agentID int) target {
	return target{
		client: r.client, base: "http://" + r.proxy[i] + "/k8s-proxy",
		header: http.Header{"Authorization": {fmt.Sprintf("Bearer ci:%d:%s", agentID, jobToken)}},
	}
}

func (r *replicas) kill(i int) {
	if cmd := r.kas[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.kas[i] = nil
	}
}

func (r *replicas) stop() {
	r.client.CloseIdleConnections()
	for i := range r.kas {
		r.kill(i)
	}
	if r.redis != nil {
		r.redis.Close()
	}
}
