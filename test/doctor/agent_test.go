package doctor

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

// nowhere is an address at which nothing listens.
const nowhere = "127.0.0.1:1"

// agentToken is a file with the token of the line's agent, and the token.
func agentToken(t *testing.T, l *line.Line) (file, token string) {
	t.Helper()
	file = l.Dir + "/tokens/demo"
	return file, strings.TrimSpace(read(t, file))
}

// account is a kubeconfig of a ServiceAccount.
func account(t *testing.T, namespace, name string) string {
	t.Helper()
	token, err := cluster.CreateServiceAccount(t.Context(), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	path, err := cluster.KubeconfigForToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAgent_Green(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	file, token := agentToken(t, l)
	kubeconfig := account(t, "gitlab-agent-demo", "gitlab-agent")
	for _, scheme := range []string{line.WSS, line.GRPCS} {
		r := examine(t, []string{"POD_NAMESPACE=gitlab-agent-demo"}, []string{token}, binaries(t).Agentk,
			"--kas-address", scheme+"://"+l.AgentAddress, "--token-file", file, "--kas-ca-cert-file", l.Authority.File, "--kubeconfig", kubeconfig)
		// Without WebSocket kas does not tell its version.
		maySkip := []string{"kas-version"}
		if scheme == line.WSS {
			maySkip = nil
		}
		green(t, r, maySkip...)
		if got := find(t, r, "agent-configuration").What; !strings.Contains(got, "agent 7 of acme/infra") {
			t.Errorf("configuration: %s", got)
		}
	}
}

// TestAgent_BeforeInstallation has neither token nor cluster.
func TestAgent_BeforeInstallation(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	r := examine(t, nil, nil, binaries(t).Agentk, "--kas-address", "wss://"+l.AgentAddress, "--kas-ca-cert-file", l.Authority.File)
	green(t, r, "agent-token", "agent-configuration", "cluster", "impersonation", "lease")
	if got := find(t, r, "agent-token").What; !strings.Contains(got, "stopping before authentication") {
		t.Errorf("token: %s", got)
	}
	if r.Mode != "remote" {
		t.Errorf("mode %s", r.Mode)
	}
}

// agentCase is a set-up in which an agent cannot work.
type agentCase struct {
	name, address string
	env, args     []string
	want          diagnosis
}

func TestAgent_Network(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	n := startNginx(t, l)
	_, port, err := net.SplitHostPort(l.AgentAddress)
	if err != nil {
		t.Fatal(err)
	}
	const unknown = "no-such-host-of-agentk.invalid"
	dns := diagnosis{"kas-dns", "unknown-host", 10, unknown, "Correct the address"}
	var failed *net.DNSError
	if _, err := net.DefaultResolver.LookupHost(t.Context(), unknown); errors.As(err, &failed) && !failed.IsNotFound {
		dns = diagnosis{"kas-dns", "dns-trouble", 10, unknown, "port 53"} // this machine has no DNS
	}
	trust := []string{"--kas-ca-cert-file", l.Authority.File}
	examineAgents(t, []agentCase{
		{"wrong DNS", "wss://" + unknown + ":" + port, nil, nil, dns},
		{"closed port", "wss://" + nowhere, nil, nil, diagnosis{"kas-tcp", "port-closed", 10, nowhere, "8150"}},
		{"plain-text server on TLS port", "wss://" + n.plain + "/good/", nil, trust, diagnosis{"kas-tls", "not-tls", 11, "not TLS", "ws://"}},
		{"TLS server on plain-text port", "ws://" + l.AgentAddress, nil, nil, diagnosis{"kas-http", "tls-expected", 11, "", "wss://"}},
		{"TLS web server on plain-text port", "ws://" + n.tls + "/good/", nil, nil, diagnosis{"kas-http", "tls-expected", 11, "HTTPS", "wss://"}},
		{"private CA missing", "wss://" + l.AgentAddress, nil, nil, diagnosis{"kas-tls", "private-ca", 11, "run of", "--kas-ca-cert-file"}},
		{"private CA missing, gRPC", "grpcs://" + l.AgentAddress, nil, nil, diagnosis{"kas-tls", "private-ca", 11, "run of", "--kas-ca-cert-file"}},
		{
			"wrong server name", "wss://" + l.AgentAddress, nil, append(trust, "--kas-tls-server-name", "other.test"),
			diagnosis{"kas-tls", "server-name", 11, "localhost, 127.0.0.1, not for other.test", "--kas-tls-server-name"},
		},
		{
			"no such CA file", "wss://" + l.AgentAddress, nil,
			[]string{"--kas-ca-cert-file", "/nowhere/ca.crt"},
			diagnosis{"kas-address", "ca-file", 16, "/nowhere/ca.crt", "PEM"},
		},
		{"no address", "https://" + l.AgentAddress, nil, nil, diagnosis{"kas-address", "kas-address", 16, "https", "wss://"}},
		{
			"proxy down", "wss://kas.test",
			[]string{"HTTPS_PROXY=http://" + nowhere},
			nil,
			diagnosis{"kas-tcp", "proxy-unreachable", 10, nowhere, "NO_PROXY"},
		},
		{
			"proxy refuses", "wss://kas.test",
			[]string{"HTTPS_PROXY=http://user:pa55word@" + n.plain},
			nil,
			diagnosis{"kas-tcp", "proxy-refused", 10, "status 4", "CONNECT"},
		},
		{"proxy is no URL", "wss://kas.test", []string{"HTTPS_PROXY=http://pa55word:x%zz@p"}, nil, diagnosis{"kas-dns", "proxy-variable", 10, "HTTPS_PROXY", "3128"}},
	})
}

func TestAgent_InFront(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	n := startNginx(t, l)
	trust := []string{"--kas-ca-cert-file", l.Authority.File}
	at := func(path string) string { return "wss://" + n.tls + path }
	r := examine(t, nil, nil, binaries(t).Agentk, append(trust, "--kas-address", at("/good/"))...)
	green(t, r, "kas-version", "agent-token", "agent-configuration", "cluster", "impersonation", "lease")
	examineAgents(t, []agentCase{
		{"proxy that strips Upgrade", at("/stripped/"), nil, trust, diagnosis{"websocket", "upgrade-stripped", 12, "426", "proxy_set_header Upgrade"}},
		{"301", at("/moved"), nil, trust, diagnosis{"kas-http", "redirect", 12, "/moved/", "slash"}},
		{"404", at("/elsewhere/"), nil, trust, diagnosis{"kas-http", "not-routed", 12, "404", "/-/kubernetes-agent/"}},
		{"502", at("/down/"), nil, trust, diagnosis{"kas-http", "bad-gateway", 12, "502", "Start kas"}},
		{"web page", at("/page/"), nil, trust, diagnosis{"kas-http", "web-page", 12, "200", "kas.HOST"}},
		{"403", at("/guarded/"), nil, trust, diagnosis{"kas-http", "refused-in-front", 12, "403", "--kas-header"}},
		{"Kubernetes API proxy", "wss://" + l.ProxyAddress, nil, trust, diagnosis{"websocket", "not-websocket", 12, "400", "8150"}},
		{"gRPC where there is only HTTP/1.1", "grpc://" + n.plain, nil, nil, diagnosis{"grpc", "wrong-protocol", 12, "", "HTTP/2"}},
	})
}

func TestAgent_Token(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	trust := []string{"--kas-ca-cert-file", l.Authority.File}
	with := func(token string) []string { return append(trust, "--token-file", write(t, token+"\n")) }
	address := "wss://" + l.AgentAddress
	examineAgents(t, []agentCase{
		{"wrong token", address, nil, with("glagent-pa55word"), diagnosis{"agent-token", "agent-token-refused", 13, "kas says", "Make a new token"}},
		{"revoked token", address, nil, with("glagent-that-was-revoked"), diagnosis{"agent-token", "agent-token-refused", 13, "kas says", "Make a new token"}},
		{"token of a person", address, nil, with("glpat-pa55word"), diagnosis{"agent-token", "token-kind", 13, "personal access token", "glagent-"}},
		{"two tokens", address, nil, with("glagent-pa55word\nglagent-pa55word"), diagnosis{"agent-token", "token-kind", 13, "white space", "glagent-"}},
		{
			"mistake in the agent's configuration", address, nil, append(trust, "--token-file", l.Dir+"/tokens/typo"),
			diagnosis{"agent-configuration", "agent-configuration", 16, "ci_acces", "default branch"},
		},
		{"no token file", address, nil, append(trust, "--token-file", "/nowhere/token"), diagnosis{"agent-token", "token-missing", 13, "/nowhere/token", "Secret"}},
	})
}

func TestAgent_Cluster(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	file, _ := agentToken(t, l)
	args := []string{"--kas-ca-cert-file", l.Authority.File, "--token-file", file, "--kubeconfig"}
	closed := strings.ReplaceAll(read(t, account(t, "gitlab-agent-demo", "gitlab-agent")), cluster.URL, "https://"+nowhere)
	unknown, err := cluster.KubeconfigForToken("nobody-knows-this-token")
	if err != nil {
		t.Fatal(err)
	}
	none := account(t, "gitlab-agent-none", "gitlab-agent")
	address := "wss://" + l.AgentAddress
	examineAgents(t, []agentCase{
		{"agent without impersonate", address, nil, append(args, none), diagnosis{"impersonation", "impersonate", 15, "users, groups, userextras", "ClusterRole"}},
		{
			"agent without the other account's token", address, nil, append(args, none, "--impersonation-service-account", "gitlab-agent-none/other"),
			diagnosis{"impersonation", "impersonation-token", 15, "gitlab-agent-none/other", "serviceaccounts/token"},
		},
		{"API server down", address, nil, append(args, write(t, closed)), diagnosis{"cluster", "cluster-unreachable", 15, nowhere, "NetworkPolicy"}},
		{"account unknown", address, nil, append(args, unknown), diagnosis{"cluster", "cluster-credentials", 15, "401", "token"}},
	})
}

// TestAgent_NoLeases is a warning: not every agent needs them.
func TestAgent_NoLeases(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	kubeconfig := account(t, "gitlab-agent-none", "gitlab-agent")
	r := examine(t, nil, nil, binaries(t).Agentk, "--kas-ca-cert-file", l.Authority.File, "--kas-address", "wss://"+l.AgentAddress,
		"--kubeconfig", kubeconfig, "--skip", "impersonation")
	if c := find(t, r, "lease"); c.CauseID != "lease" || c.Status != "warn" || r.ExitCode != 0 {
		t.Errorf("%+v, exit code %d", c, r.ExitCode)
	}
}

// TestAgent_NoConfiguration is a warning: it may come.
func TestAgent_NoConfiguration(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	r := examine(t, nil, nil, binaries(t).Agentk, "--kas-ca-cert-file", l.Authority.File, "--kas-address", "wss://"+l.AgentAddress,
		"--token-file", l.Dir+"/tokens/mute")
	if c := find(t, r, "agent-configuration"); c.CauseID != "no-agent-configuration" || c.Status != "warn" || r.ExitCode != 0 {
		t.Errorf("%+v, exit code %d", c, r.ExitCode)
	}
}

// TestBehindKas has a kas that cannot reach its GitLab.
func TestBehindKas(t *testing.T) {
	t.Parallel()
	secret := write(t, base64.StdEncoding.EncodeToString(make([]byte, 32)))
	l := line.StartT(t, line.Config{
		ControlPlane: cluster, Scheme: line.WSS,
		Agents: []line.Agent{{ID: 7, Name: "behind", Project: "acme/behind", Manual: true}},
		Jobs:   []line.Job{{ID: goodJob, Project: "acme/shop", Denied: true}},
		ExtraKasYAML: fmt.Sprintf(`
standalone:
gitlab: {address: "http://%[1]s", authentication_secret_file: %[2]s}
redis: {server: {address: "%[4]s"}}
api: {listen: {network: unix, address: %[3]s/api.sock, authentication_secret_file: %[2]s, listen_grace_period: 0.1s}}
private_api: {listen: {network: unix, address: %[3]s/private.sock, authentication_secret_file: %[2]s, listen_grace_period: 0.1s}}
`, nowhere, secret, shortDir(t), redis.StartT(t, redis.Config{}).Address()),
	})
	r := examine(t, nil, nil, binaries(t).Agentk, "--kas-ca-cert-file", l.Authority.File, "--kas-address", "wss://"+l.AgentAddress,
		"--token-file", l.Dir+"/tokens/behind")
	diagnosis{"agent-token", "gitlab-behind-kas", 17, "unavailable", "kas doctor"}.confirm(t, r)
	r = examine(t, jobEnv(t, l, goodJob, nil), nil, binaries(t).Agentk)
	diagnosis{"access", "gitlab-behind-kas", 17, "Failed to get allowed agents", "kas doctor"}.confirm(t, r)
}

func examineAgents(t *testing.T, cases []agentCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, c.env, []string{"pa55word"}, binaries(t).Agentk, append([]string{"--kas-address", c.address}, c.args...)...)
			c.want.confirm(t, r)
		})
	}
}
