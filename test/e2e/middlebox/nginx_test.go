//go:build e2e

package middlebox

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"

	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/tool"
)

// nginxConf has the locations of a GitLab installation: agents over WebSocket, agents over plain gRPC told apart by the services' names,
// both with nginx's default timeouts of 60 s, and the Kubernetes API with room for watches. One process only, so that it dies as a whole.
var nginxConf = template.Must(template.New("nginx.conf").Parse(`
daemon off;
master_process {{if .Workers}}on{{else}}off{{end}};
{{.Main}}
pid {{.Dir}}/nginx.pid;
error_log {{.Dir}}/error.log warn;
events { worker_connections 2048; }
http {
  log_format hop '"$request" $status upstream=$upstream_status edge_key=$http_x_edge_key';
  access_log {{.Dir}}/access.log hop;
  client_body_temp_path {{.Dir}}/body;
  proxy_temp_path {{.Dir}}/proxy;
  fastcgi_temp_path {{.Dir}}/fastcgi;
  uwsgi_temp_path {{.Dir}}/uwsgi;
  scgi_temp_path {{.Dir}}/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen {{.Address}} ssl http2;
    ssl_certificate {{.Certificate}};
    ssl_certificate_key {{.Key}};
    root {{.Dir}}/html;
    {{.Server}}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;

    location = /-/kubernetes-agent/ {
      {{.Guard}}
      proxy_pass http://{{.AgentListener}}/;
      proxy_read_timeout 60s;
      proxy_send_timeout 60s;
    }
    location = /-/kubernetes-agent { return 301 $uri/; }
    location /-/kubernetes-agent/k8s-proxy/ {
      proxy_pass http://{{.ProxyListener}}/k8s-proxy/;
      proxy_buffering off;
      proxy_request_buffering off;
      client_max_body_size 0;
      proxy_read_timeout 7200s;
      proxy_send_timeout 7200s;
    }
    location /gitlab.agent. {
      {{.Guard}}
      grpc_pass grpc://{{.AgentListener}};
      client_max_body_size 0;
    }
  }
}
`))

// nginx stands in front of kas.
type nginx struct {
	program
	// workers: there is a master with one worker, as everywhere outside of tests, and reload works. main are further directives of the
	// configuration's top level, server those of the server.
	workers      bool
	main, server string
}

// reserveNginx chooses the address, which kas and its agents are told before nginx can start.
func reserveNginx(t *testing.T) *nginx {
	t.Helper()
	n := &nginx{program: program{
		path: tool.Debian(t, "nginx-light", "nginx"), dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", freePort(t)),
	}}
	n.args = []string{"-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", filepath.Join(n.dir, "error.log")}
	return n
}

// jobURL is the Kubernetes proxy as the jobs see it.
func (n *nginx) jobURL() string { return "https://" + n.address + "/-/kubernetes-agent/k8s-proxy" }

// agentURL is where agents reach kas through WebSocket, nativeURL where they do so through plain gRPC.
func (n *nginx) agentURL() string { return "wss://" + n.address + "/-/kubernetes-agent/" }

func (n *nginx) nativeURL() string { return "grpcs://" + n.address }

// serve starts nginx in front of a line whose kas speaks no TLS. edgeKey, unless empty, is demanded of agents in the header X-Edge-Key.
func (n *nginx) serve(t *testing.T, l *line.Line, edgeKey string) {
	t.Helper()
	certificate, key, err := l.Authority.Issue("nginx", "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	guard := ""
	if edgeKey != "" {
		guard = `if ($http_x_edge_key != "` + edgeKey + `") { return 403; }`
	}
	var conf strings.Builder
	err = nginxConf.Execute(&conf, map[string]any{
		"Dir": n.dir, "Address": n.address, "Certificate": certificate, "Key": key, "Guard": guard,
		"Workers": n.workers, "Main": n.main, "Server": n.server,
		"AgentListener": l.AgentAddress, "ProxyListener": l.ProxyAddress,
	})
	if err != nil {
		t.Fatal(err)
	}
	text := conf.String()
	if os.Geteuid() == 0 {
		text = "user root;" + text // the folders of a test are its own
	}
	if err := os.WriteFile(filepath.Join(n.dir, "nginx.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	n.showOnFailure(t, "output.log", "error.log", "access.log")
}

// accessLog is nginx's own record of requests, each written when it has ended.
func (n *nginx) accessLog(t *testing.T) func() string {
	return func() string { return n.read(t, "access.log") }
}

// reload has new workers take over and the old one end when its connections allow.
func (n *nginx) reload(t *testing.T) {
	t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}
