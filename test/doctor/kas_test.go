package doctor

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/tool"
)

// redisPassword is what the Redis of these tests wants to hear.
const redisPassword = "pa55word-of-redis"

// site is what kas stands beside: a GitLab, whose clock can be changed, and a real Redis.
type site struct {
	gl      *gitlab.GitLab
	offset  atomic.Int64 // of GitLab's clock
	token   string       // of an agent
	redis   string       // host:port
	secrets []string
}

func newSite(t *testing.T, certificate *tls.Certificate) *site {
	t.Helper()
	s := &site{}
	var err error
	s.gl, err = gitlab.Start(t.Context(), gitlab.Config{
		Certificate: certificate,
		Now:         func() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) },
	})
	must(t, err)
	t.Cleanup(s.gl.Stop)
	_, err = s.gl.AddProject(t.Context(), gitlab.Project{ID: 10, Path: "acme/infra"})
	must(t, err)
	_, err = s.gl.AddUser(gitlab.User{ID: 3, Username: "somebody"})
	must(t, err)
	must(t, s.gl.AddMember("somebody", "acme/infra", gitlab.Developer))
	_, err = s.gl.AddAgent(gitlab.Agent{ID: 7, Name: "demo", Project: "acme/infra"})
	must(t, err)
	token, err := s.gl.CreateToken(7)
	must(t, err)
	s.token = token.Value
	_, err = s.gl.PushConfig(t.Context(), 7, "ci_access: {}\n")
	must(t, err)
	s.redis = startRedis(t)
	s.secrets = []string{s.token, redisPassword, base64.StdEncoding.EncodeToString(s.gl.Secret), "pa55word"}
	return s
}

// startRedis starts a Redis that wants a password.
func startRedis(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	socket := filepath.Join(dir, "redis.sock")
	run(t, tool.Debian(t, "redis-server", "redis-server"), "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "",
		"--requirepass", redisPassword)
	return forward(t, socket)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kasFile is a configuration file for a kas at this site. change, unless nil, spoils it.
func (s *site) kasFile(t *testing.T, change func(string) string) string {
	t.Helper()
	content := fmt.Sprintf(`
gitlab: {address: "%[1]s", authentication_secret_file: %[2]s}
redis: {server: {address: "%[3]s"}, password_file: %[4]s}
agent: {listen: {address: "127.0.0.1:0", websocket: true}, kubernetes_api: {listen: {address: "127.0.0.1:0"}, url_path_prefix: /k8s-proxy/}}
observability: {listen: {network: unix, address: %[5]s/kas.sock}}
api: {listen: {address: "127.0.0.1:0", authentication_secret_file: %[2]s}}
private_api: {listen: {address: "127.0.0.1:0", authentication_secret_file: %[2]s}}
`, s.gl.URL, s.gl.SecretFile, s.redis, write(t, redisPassword), t.TempDir())
	if change != nil {
		changed := change(content)
		if changed == content {
			t.Fatal("the change changes nothing")
		}
		content = changed
	}
	return write(t, content)
}

func replace(old, replacement string) func(string) string {
	return func(content string) string { return strings.ReplaceAll(content, old, replacement) }
}

func TestKas_Green(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	r := examine(t, nil, s.secrets, binaries(t).Kas, "--configuration-file", s.kasFile(t, nil), "--agent-token-file", write(t, s.token+"\n"))
	green(t, r)
	for id, want := range map[string]string{
		"listen-agent": "is free", "gitlab-http": "clock is ours", "gitlab-secret": "accepts", "gitaly": "acme/infra has configuration files of 1 agents",
		"redis": "answers: Redis ",
	} {
		if got := find(t, r, id).What; !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
	if got := s.gl.Counters(); got["k8s_api_proxy_request"] != 0 {
		t.Errorf("the doctor counts as usage: %v", got)
	}
}

// TestKas_GreenBesideARunningOne looks at the kas of the line while it serves.
func TestKas_GreenBesideARunningOne(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	r := examine(t, nil, nil, binaries(t).Kas, "--configuration-file", l.KasFile)
	green(t, r)
	for _, id := range []string{"listen-agent", "listen-proxy", "listen-observability"} {
		if got := find(t, r, id).What; !strings.Contains(got, "is served by gitlab-kas/") && !strings.HasSuffix(got, "is served by kas") {
			t.Errorf("%s: %s", id, got)
		}
	}
}

func TestKas_Findings(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	l := theLine(t)
	taken := listen(t, func(conn net.Conn) { _, _ = conn.Write([]byte("220 mail.test\r\n")) })
	otherSecret := write(t, base64.StdEncoding.EncodeToString(make([]byte, 32)))
	shortSecret := write(t, base64.StdEncoding.EncodeToString([]byte("pa55word")))
	certificate, _, err := l.Authority.Issue("one", "one.test")
	must(t, err)
	_, key, err := l.Authority.Issue("two", "two.test")
	must(t, err)
	gitLabAddress := `gitlab: {address: "` + s.gl.URL + `", authentication_secret_file: `
	const agentAddress = `listen: {address: "127.0.0.1:0", websocket`
	agentAt := func(address string) func(string) string {
		return replace(agentAddress, strings.Replace(agentAddress, "127.0.0.1:0", address, 1))
	}
	cases := []struct {
		name   string
		change func(string) string
		env    []string
		want   diagnosis
	}{
		{"kas without Redis", replace(s.redis, nowhere), nil, diagnosis{"redis", "redis-unreachable", 17, nowhere, "Start Redis"}},
		{
			"wrong password of Redis", replace("password_file: ", "password_file: "+write(t, "pa55word")+", username: default}\n# "), nil,
			diagnosis{"redis", "redis-login", 17, "WRONGPASS", "redis.password_file"},
		},
		{
			"something else than Redis", replace(s.redis, strings.TrimPrefix(s.gl.URL, "http://")), nil,
			diagnosis{"redis", "redis-unreachable", 17, "as Redis does", "redis.server.address"},
		},
		{
			"Rails unreachable", replace(s.gl.URL, "http://"+nowhere), nil,
			diagnosis{"gitlab-tcp", "gitlab-unreachable", 17, nowhere, "gitlab_kas['gitlab_address']"},
		},
		{"something else than GitLab", replace(s.gl.URL, "http://"+s.redis), nil, diagnosis{"gitlab-http", "gitlab-trouble", 17, "", "gitlab.address"}},
		{
			"GitLab below a path", replace(s.gl.URL, s.gl.URL+"/sub"), nil,
			diagnosis{"gitlab-http", "gitlab-trouble", 17, "/sub/api/v4/version", "gitlab.address"},
		},
		{
			"another secret", replace(gitLabAddress+s.gl.SecretFile, gitLabAddress+otherSecret), nil,
			diagnosis{"gitlab-secret", "kas-secret-refused", 13, "proof of kas' identity", "api_secret_key"},
		},
		{"secret too short", replace(s.gl.SecretFile, shortSecret), nil, diagnosis{"secrets", "secret-file", 16, "holds 8 bytes and not 32", "Base64"}},
		{"no secret", replace(s.gl.SecretFile, "/nowhere/secret"), nil, diagnosis{"secrets", "secret-file", 16, "/nowhere/secret", "Base64"}},
		{
			"mistakes in the file", replace("websocket: true", "websocket: 7"), nil,
			diagnosis{"configuration", "kas-configuration", 16, "agent.listen.websocket (line 4)", "kas validate"},
		},
		{"another program on the port", agentAt(taken), nil, diagnosis{"listen-agent", "listener-taken", 16, taken, "ss -ltnp"}},
		{"address of another machine", agentAt("192.0.2.1:8150"), nil, diagnosis{"listen-agent", "listener-address", 16, "192.0.2.1", "0.0.0.0"}},
		{
			"no folder for a socket", replace("network: unix, address: ", "network: unix, address: /nowhere"), nil,
			diagnosis{"listen-observability", "listener-address", 16, "/nowhere", "folder"},
		},
		{
			"another certificate's key", replace("websocket: true", "websocket: true, certificate_file: "+certificate+", key_file: "+key), nil,
			diagnosis{"certificates", "certificate-files", 11, "agent.listen", "PEM"},
		},
		{
			"own address", nil,
			[]string{"OWN_PRIVATE_API_URL=https://10.0.0.1:8155"},
			diagnosis{"environment", "own-address", 16, "https", "grpc://"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.want.confirm(t, examine(t, c.env, s.secrets, binaries(t).Kas, "--configuration-file", s.kasFile(t, c.change)))
		})
	}
}

// TestKas_Clock has GitLab's clock wrong, by which it sends its Date and checks tokens.
func TestKas_Clock(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	file := s.kasFile(t, nil)
	for offset, direction := range map[time.Duration]string{5 * time.Minute: "ahead", -5 * time.Minute: "behind"} {
		s.offset.Store(int64(offset))
		r := examine(t, nil, s.secrets, binaries(t).Kas, "--configuration-file", file)
		diagnosis{"gitlab-http", "clock-offset", 14, "the clock of GitLab is ", "chrony"}.confirm(t, r)
		if got := find(t, r, "gitlab-http").What; !strings.HasSuffix(got, direction) {
			t.Errorf("seen: %s", got)
		}
	}
}

func TestKas_GitLabWithTLS(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	certificate, key, err := l.Authority.Issue("gitlab", "127.0.0.1")
	must(t, err)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	must(t, err)
	s := newSite(t, &pair)
	r := examine(t, nil, s.secrets, binaries(t).Kas, "--configuration-file", s.kasFile(t, nil))
	diagnosis{"gitlab-tls", "private-ca", 11, "run of", "gitlab.ca_certificate_file"}.confirm(t, r)
	r = examine(t, nil, s.secrets, binaries(t).Kas, "--configuration-file",
		s.kasFile(t, replace("gitlab: {", "gitlab: {ca_certificate_file: "+l.Authority.File+", ")))
	green(t, r, "gitaly")
}

// TestKas_Repositories: those of a standalone kas.
func TestKas_Repositories(t *testing.T) {
	t.Parallel()
	file := write(t, `
agent: {listen: {address: "127.0.0.1:0", websocket: true}}
observability: {listen: {address: "127.0.0.1:0"}}
standalone:
  repositories_dir: `+t.TempDir()+`
  projects: [{id: 1, path: acme/infra}]
  agents: [{id: 7, name: demo, project: acme/infra, token_sha256: ["`+strings.Repeat("0", 64)+`"]}]
`)
	r := examine(t, nil, nil, binaries(t).Kas, "--configuration-file", file)
	diagnosis{"repositories", "repository", 16, "acme/infra.git", "git init --bare"}.confirm(t, r)
}

func TestKas_NoFile(t *testing.T) {
	t.Parallel()
	r := examine(t, nil, nil, binaries(t).Kas, "--configuration-file", "/nowhere/kas.yaml")
	diagnosis{"configuration", "kas-configuration", 16, "/nowhere/kas.yaml", "kas validate"}.confirm(t, r)
}

// TestUsage: mistakes in the command line are no findings.
func TestUsage(t *testing.T) {
	t.Parallel()
	b := binaries(t)
	for _, args := range [][]string{
		{b.Agentk, "doctor"},
		{b.Agentk, "doctor", "--kas-address", "wss://a", "-o", "xml"},
		{b.Agentk, "doctor", "--kas-address", "wss://a", "--kas-header", "no colon"},
		{b.Agentk, "doctor", "--kas-address", "wss://a", "--can", "get pods"},
		{b.Agentk, "doctor", "--job", "--can", "pods"},
		{b.Kas, "doctor"},
		{b.Kas, "doctor", "--configuration-file", "x", "-o", "xml"},
		{b.Kas, "doctor", "--configuration-file", "x", "--agent-token-file", "/nowhere/token"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), runLimit)
		out, code := output(ctx, args)
		cancel()
		if code != 1 || !strings.HasPrefix(out, "Program aborted: ") {
			t.Errorf("%q: exit code %d, %s", args[1:], code, out)
		}
	}
}
