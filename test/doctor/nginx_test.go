package doctor

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
	"time"

	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/tool"
)

// nginxConf has a location for each way to put a web server in front of kas wrongly, and one for the right way. One process only.
const nginxConf = `
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server {
    listen unix:%[1]s/tls.sock ssl;
    listen unix:%[1]s/plain.sock;
    ssl_certificate %[2]s;
    ssl_certificate_key %[3]s;
    root %[1]s/html;
    absolute_redirect off;
    proxy_http_version 1.1;
    location = /good/ { proxy_pass https://%[4]s/; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }
    location = /stripped/ { proxy_pass https://%[4]s/; }
    location = /moved { return 301 /moved/; }
    location /down/ { proxy_pass http://unix:%[1]s/nobody.sock:/; }
    location /page/ { default_type text/html; return 200 "<html>welcome</html>"; }
    location /guarded/ { return 403; }
  }
}
`

// nginx is a real one on two addresses, one with TLS and one without.
type nginx struct{ tls, plain string }

// startNginx puts an nginx in front of a line. It listens on sockets, and the ports in front of them are ours: nginx cannot choose free
// ones itself.
func startNginx(t *testing.T, l *line.Line) nginx {
	t.Helper()
	path, dir := tool.Debian(t, "nginx-light", "nginx"), shortDir(t)
	certificate, key, err := l.Authority.Issue("nginx", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(nginxConf, dir, certificate, key, l.AgentAddress)
	if os.Geteuid() == 0 {
		conf = "user root;" + conf // the folders of a test are its own
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log"))
	return nginx{tls: forward(t, filepath.Join(dir, "tls.sock")), plain: forward(t, filepath.Join(dir, "plain.sock"))}
}

// shortDir is a folder in which the paths of sockets are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dr-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run starts a program that lives as long as the test.
func run(t *testing.T, path string, args ...string) {
	t.Helper()
	var output strings.Builder
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", path, output.String())
		}
	})
}

// forward listens on a free port and passes every connection on to a socket, once something listens there.
func forward(t *testing.T, socket string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	line.Eventually(ctx, t, "start of what listens on "+socket, func(ctx context.Context) error {
		conn, err := dialUnix(ctx, socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return listen(t, func(conn net.Conn) {
		back, err := dialUnix(context.Background(), socket)
		if err != nil {
			return
		}
		defer back.Close()
		join(conn, back)
	})
}

func dialUnix(ctx context.Context, socket string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", socket)
}
