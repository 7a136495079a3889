//go:build e2e

package install

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/tool"
)

// machine is what stands on the machine beside the cluster: Redis and the reverse proxy, both reached by Pods as machine.test, and a
// folder of git repositories.
type machine struct {
	authority     *line.Authority
	repositories  string // folder of bare repositories
	redisAddress  string
	redisPassword string
	nginxAddress  string
	dir           string
}

// stopPatience is how long a program may take to end after SIGTERM.
const stopPatience = time.Minute

// newMachine starts Redis and makes the repositories. nginx waits for the addresses of kas.
func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	authority, err := line.NewAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{authority: authority, dir: dir, repositories: filepath.Join(dir, "repositories"), redisPassword: "canary-redis-password"}
	ports, err := line.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	m.redisAddress, m.nginxAddress = net.JoinHostPort(kube.MachineName, ports[0]), net.JoinHostPort(kube.MachineName, ports[1])
	launch(t, net.JoinHostPort(kube.MachineIP, ports[0]), tool.Debian(t, "redis-server", "redis-server"),
		"--bind", kube.MachineIP, "--port", ports[0], "--requirepass", m.redisPassword, "--save", "", "--dir", dir)
	return m
}

// jobURL is where jobs, which are on the machine, reach the Kubernetes API proxy. The machine itself does not know its name.
func (m *machine) jobURL() string {
	_, port, _ := net.SplitHostPort(m.nginxAddress)
	return "https://" + net.JoinHostPort(kube.MachineIP, port) + "/-/kubernetes-agent/k8s-proxy"
}

// agentURL is where agents, which are in the cluster, reach kas.
func (m *machine) agentURL() string { return "wss://" + m.nginxAddress + "/-/kubernetes-agent/" }

// addRepository makes a bare repository with some files on its default branch, readable for everybody.
func (m *machine) addRepository(t *testing.T, project string, files map[string]string) {
	t.Helper()
	git := tool.Debian(t, "git", "git")
	work, bare := filepath.Join(m.dir, "work", project), filepath.Join(m.repositories, project+".git")
	for name, content := range files {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main", work},
		{"-C", work, "add", "--all"},
		{"-C", work, "-c", "user.name=ci", "-c", "user.email=ci@acme.test", "commit", "--quiet", "--message", "Agents"},
		{"clone", "--quiet", "--bare", work, bare},
	} {
		cmd := exec.CommandContext(soon(t), git, args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+m.dir)
		output(t, cmd)
	}
	output(t, exec.CommandContext(soon(t), "chmod", "-R", "a+rX", m.repositories))
}

var nginxConf = template.Must(template.New("nginx.conf").Parse(`
daemon off;
user root;
worker_processes 1;
pid {{.Dir}}/nginx.pid;
error_log {{.Dir}}/nginx-error.log warn;
events { worker_connections 2048; }
http {
  access_log off;
  client_body_temp_path {{.Dir}}/body;
  proxy_temp_path {{.Dir}}/proxy;
  fastcgi_temp_path {{.Dir}}/fastcgi;
  uwsgi_temp_path {{.Dir}}/uwsgi;
  scgi_temp_path {{.Dir}}/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen {{.Listen}} ssl;
    ssl_certificate {{.Certificate}};
    ssl_certificate_key {{.Key}};
    keepalive_requests 100000;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    location = /-/kubernetes-agent/ { proxy_pass http://{{.Kas}}:8150/; }
    location /-/kubernetes-agent/k8s-proxy/ {
      proxy_pass http://{{.Kas}}:8154/k8s-proxy/;
      proxy_buffering off;
      proxy_request_buffering off;
      client_max_body_size 0;
      proxy_read_timeout 7200s;
    }
  }
}
`))

// startNginx puts nginx in front of the Service of kas, as GitLab's Omnibus package does it.
func (m *machine) startNginx(t *testing.T, kas string) {
	t.Helper()
	certificate, key, err := m.authority.Issue("nginx", kube.MachineName, kube.MachineIP)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(m.nginxAddress)
	listen := net.JoinHostPort(kube.MachineIP, port)
	var conf strings.Builder
	if err := nginxConf.Execute(&conf, map[string]string{"Dir": m.dir, "Listen": listen, "Certificate": certificate, "Key": key, "Kas": kas}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(m.dir, "nginx-error.log")
	launch(t, listen, tool.Debian(t, "nginx-light", "nginx"), "-p", m.dir, "-c", file, "-e", log)
	t.Cleanup(func() {
		if t.Failed() {
			content, _ := os.ReadFile(log)
			t.Logf("--- nginx ---\n%s", content[max(0, len(content)-4000):])
		}
	})
}

// launch starts a program that ends with the test, and waits until it accepts connections.
func launch(t *testing.T, address, path string, args ...string) {
	t.Helper()
	cmd, done := exec.Command(path, args...), make(chan struct{})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(stopPatience):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-done
		}
	})
	line.Eventually(soon(t), t, "start of "+path, func(ctx context.Context) error {
		select {
		case <-done:
			return fmt.Errorf("it ended: %s", cmd.ProcessState)
		default:
		}
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
