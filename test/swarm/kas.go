package swarm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// project is that of all agents and of the job, which may therefore use all of them.
	project  = "swarm/agents"
	jobID    = 1
	jobToken = "swarm-job"
	// startLimit bounds a start of kas, stopLimit its end.
	startLimit = 90 * time.Second
	stopLimit  = 30 * time.Second
	poll       = 20 * time.Millisecond
)

// object is one in YAML.
type object = map[string]any

// Token is the token of agent i of a Kas.
func Token(i int) string { return fmt.Sprintf("swarm-agent-%06d", i) }

// Kas is a kas process that stands beside no GitLab and knows a swarm and one job.
type Kas struct {
	// URL is where agents connect, ProxyURL the Kubernetes proxy.
	URL, ProxyURL string

	program                    string
	dir                        string
	agentAddress, proxyAddress string
	world                      object // the sections that say who there is
	proxyTLS                   object // the certificate of the proxy, nil: it speaks no TLS
	cmd                        *exec.Cmd
	ended                      chan struct{}
}

// NewKas prepares a kas with agents 1 to n, whose tokens are Token(0) to Token(n-1). dir must be empty and short enough for a socket.
func NewKas(ctx context.Context, dir string, agents int) (*Kas, error) {
	binaries, err := line.Build(ctx)
	if err != nil {
		return nil, err
	}
	ports, err := line.FreePorts(2) // ones that no agent gets as its own while kas is down
	if err != nil {
		return nil, err
	}
	listener, proxy := net.JoinHostPort("127.0.0.1", ports[0]), net.JoinHostPort("127.0.0.1", ports[1])
	k := &Kas{
		URL: "ws://" + listener + "/-/kubernetes-agent/", ProxyURL: "http://" + proxy + "/k8s-proxy",
		program: binaries.Kas, dir: dir, agentAddress: listener, proxyAddress: proxy,
	}
	if err := k.makeRepository(ctx); err != nil {
		return nil, err
	}
	return k, k.writeFile(object{"standalone": k.standalone(agents)})
}

// makeRepository makes the project's repository, with one commit and no configuration of any agent.
func (k *Kas) makeRepository(ctx context.Context) error {
	bare := filepath.Join(k.dir, "repositories", project+".git")
	const script = `git init -q --bare -b main "$0" && cd "$0" &&
git update-ref refs/heads/main "$(git -c user.name=swarm -c user.email=swarm@localhost commit-tree -m empty "$(git hash-object -wt tree /dev/null)")"`
	out, err := exec.CommandContext(ctx, "sh", "-c", script, bare).CombinedOutput()
	if err != nil {
		return fmt.Errorf("repository of the swarm: %w: %s", err, out)
	}
	return nil
}

// standalone is a world of agents in one project, and of a job in the same.
func (k *Kas) standalone(agents int) object {
	known := make([]object, agents)
	for i := range known {
		known[i] = object{"id": i + 1, "name": agentName(i), "project": project, "token_sha256": []string{hash(Token(i))}}
	}
	return object{
		"repositories_dir": filepath.Join(k.dir, "repositories"),
		"projects":         []object{{"id": 1, "path": project}},
		"agents":           known,
		"jobs": []object{{
			"id": jobID, "token_sha256": hash(jobToken), "pipeline": 1, "project": project, "user": object{"id": 1, "username": "swarm"},
		}},
	}
}

// writeFile writes the configuration file: the listeners, and the sections that say what world this is.
func (k *Kas) writeFile(world object) error {
	k.world = world
	proxy := object{"address": k.proxyAddress, "listen_grace_period": "0.2s", "shutdown_grace_period": "2s"}
	maps.Copy(proxy, k.proxyTLS)
	file := object{
		"agent": object{
			"listen":         object{"address": k.agentAddress, "websocket": true, "listen_grace_period": "0.2s"},
			"kubernetes_api": object{"listen": proxy, "url_path_prefix": "/k8s-proxy/"},
		},
		"observability": object{"listen": object{"network": "unix", "address": k.socket()}},
	}
	maps.Copy(file, world)
	content, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	return os.WriteFile(k.file(), content, 0o600)
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func (k *Kas) file() string { return filepath.Join(k.dir, "kas.yaml") }

func (k *Kas) socket() string { return filepath.Join(k.dir, "kas.sock") }

// Start starts kas and waits until it is ready. It may be called again after Kill; addresses stay the same.
func (k *Kas) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(k.dir, "kas.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(k.program, "--configuration-file", k.file())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + k.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start kas of the swarm: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	k.cmd, k.ended = cmd, ended
	err = line.Wait(ctx, func(ctx context.Context) error {
		select {
		case <-ended:
			cancel()
			return errors.New("it has ended")
		default:
			return k.ready(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("kas of the swarm is not ready: %w\n%s", err, k.Log())
	}
	return nil
}

func (k *Kas) ready(ctx context.Context) error {
	_, err := k.Page(ctx, "/readiness")
	return err
}

// Page gets a page of the observability server. Any status but 200 is an error.
func (k *Kas) Page(ctx context.Context, path string) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", k.socket())
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kas"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// PID is the process id of kas.
func (k *Kas) PID() int { return k.cmd.Process.Pid }

// Log is the end of what kas has written.
func (k *Kas) Log() string {
	const size = 4000
	content, err := os.ReadFile(filepath.Join(k.dir, "kas.log"))
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-size):])
}

// Kill ends kas without warning.
func (k *Kas) Kill() {
	if k.cmd == nil {
		return
	}
	_ = syscall.Kill(-k.cmd.Process.Pid, syscall.SIGKILL)
	<-k.ended
}

// Stop ends kas in order.
func (k *Kas) Stop() error {
	_ = syscall.Kill(-k.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-k.ended:
		return nil
	case <-time.After(stopLimit):
		k.Kill()
		return fmt.Errorf("kas of the swarm did not stop within %s", stopLimit)
	}
}
