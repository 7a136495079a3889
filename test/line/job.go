package line

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// killDelay is how long a killed kubectl may keep its pipes open.
const killDelay = 2 * time.Second

// WriteKubeconfig writes the kubeconfig a job starts with: that of kas, or for a Denied job one made by hand. See KubeconfigPath.
func (l *Line) WriteKubeconfig(ctx context.Context, job int64) error {
	j, err := l.job(job)
	if err != nil {
		return err
	}
	if j.Denied {
		return l.writeHandmade(j, l.KubeconfigPath(job))
	}
	return l.WriteKubeconfigFor(ctx, job)
}

// WriteKubeconfigFor writes a job's kubeconfig as "kas standalone kubeconfig" prints it now; a *CommandError says that kas refused. When
// the file has exactly one context, that one is made current, as "kubectl config use-context" in a job script does.
func (l *Line) WriteKubeconfigFor(ctx context.Context, job int64) error {
	j, err := l.job(job)
	if err != nil {
		return err
	}
	content, err := l.Kas(ctx, []string{"CI_JOB_TOKEN=" + j.Token}, "standalone", "kubeconfig",
		"--job", strconv.FormatInt(job, 10), "--configuration-file", l.KasFile)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.KubeconfigPath(job), []byte(content), 0o600); err != nil {
		return err
	}
	config, err := clientcmd.Load([]byte(content))
	if err != nil {
		return fmt.Errorf("kubeconfig that kas wrote for job %d: %w", job, err)
	}
	if len(config.Contexts) != 1 {
		return nil
	}
	for name := range config.Contexts {
		_, err = l.Kubectl(ctx, job, "config", "use-context", name)
	}
	return err
}

// writeHandmade writes what kas would print if the job could use every agent.
func (l *Line) writeHandmade(j Job, path string) error {
	l.mu.Lock()
	agents := slices.Clone(l.cfg.Agents)
	l.mu.Unlock()
	config := clientcmdapi.NewConfig()
	config.Clusters["gitlab"] = &clientcmdapi.Cluster{Server: l.ProxyURL}
	for _, a := range agents {
		user, name := fmt.Sprintf("agent:%d", a.ID), a.Project+":"+a.Name
		config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: bearer(a, j)}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: "gitlab", AuthInfo: user}
		if config.CurrentContext == "" {
			config.CurrentContext = name
		}
	}
	return clientcmd.WriteToFile(*config, path)
}

// KubeconfigPath is the file that a job finds in $KUBECONFIG.
func (l *Line) KubeconfigPath(job int64) string {
	return l.path(fmt.Sprintf("kubeconfigs/job-%d", job))
}

// Environ is the environment of a job: its kubeconfig, the run's certificate authority, a home of its own, and nothing of the user's.
func (l *Line) Environ(job int64) ([]string, error) {
	home, err := l.home(fmt.Sprintf("job-%d", job))
	if err != nil {
		return nil, err
	}
	return append(plainEnvironment(home),
		"KUBECONFIG="+l.KubeconfigPath(job), "SSL_CERT_FILE="+l.Authority.File, "KUBERC=off"), nil
}

// KubectlCommand is kubectl as a job runs it, ready to start. Input, output and further environment are the caller's; the end of ctx
// kills it.
func (l *Line) KubectlCommand(ctx context.Context, job int64, args ...string) (*exec.Cmd, error) {
	return l.Command(ctx, job, filepath.Join(l.cfg.ControlPlane.Bin, "kubectl"), args...)
}

// Command is any program as a job runs it, ready to start.
func (l *Line) Command(ctx context.Context, job int64, program string, args ...string) (*exec.Cmd, error) {
	env, err := l.Environ(job)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = env, l.Dir, killDelay
	return cmd, nil
}

// Kubectl runs kubectl as a job and returns its standard output. The error carries standard error.
func (l *Line) Kubectl(ctx context.Context, job int64, args ...string) (string, error) {
	cmd, err := l.KubectlCommand(ctx, job, args...)
	if err != nil {
		return "", err
	}
	return output(cmd)
}

// Apply runs "kubectl apply -f -" as a job.
func (l *Line) Apply(ctx context.Context, job int64, manifest string) (string, error) {
	cmd, err := l.KubectlCommand(ctx, job, "apply", "-f", "-")
	if err != nil {
		return "", err
	}
	cmd.Stdin = strings.NewReader(manifest)
	return output(cmd)
}

// Kas runs one of kas' tools and returns its standard output. The error carries standard error.
func (l *Line) Kas(ctx context.Context, env []string, args ...string) (string, error) {
	home, err := l.home("kas-tools")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, l.cfg.Binaries.Kas, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(plainEnvironment(home), env...), l.Dir, killDelay
	return output(cmd)
}

// Bearer is what a job sends to use an agent.
func (l *Line) Bearer(job int64, agent string) (string, error) {
	j, err := l.job(job)
	if err != nil {
		return "", err
	}
	a, err := l.agent(agent)
	if err != nil {
		return "", err
	}
	return bearer(a, j), nil
}

func bearer(a Agent, j Job) string { return fmt.Sprintf("ci:%d:%s", a.ID, j.Token) }

// HTTPClient is a job's way to an agent for plain HTTP, below ProxyURL. It sends the job's credential unless the request has an
// Authorization header, follows no redirects and leaves encodings alone. The line closes its idle connections when it stops.
func (l *Line) HTTPClient(job int64, agent string) (*http.Client, error) {
	token, err := l.Bearer(job, agent)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: l.Authority.Pool, MinVersion: tls.VersionTLS12},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 256,
	}
	l.mu.Lock()
	l.idle = append(l.idle, transport.CloseIdleConnections)
	l.mu.Unlock()
	return &http.Client{
		Transport:     &credential{next: transport, header: "Bearer " + token},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// credential adds an Authorization header to requests without one.
type credential struct {
	next   http.RoundTripper
	header string
}

func (c *credential) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, set := r.Header["Authorization"]; !set {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", c.header)
	}
	return c.next.RoundTrip(r)
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &CommandError{Program: filepath.Base(cmd.Path), Args: cmd.Args[1:], Stderr: stderr.String(), err: err}
	}
	return stdout.String(), nil
}

// CommandError says that a program of a job failed.
type CommandError struct {
	Program string
	Args    []string
	Stderr  string
	err     error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", e.Program, strings.Join(e.Args, " "), e.err, strings.TrimSpace(e.Stderr))
}

func (e *CommandError) Unwrap() error { return e.err }
