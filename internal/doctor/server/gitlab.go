package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/gitaly"
	"gitlab.com/agentk/agentk/internal/gitlab"
)

// How far the clocks may differ: the tokens of kas are valid from 5 s before they are made to 30 s after.
const (
	maxAhead     = 5 * time.Second
	maxBehind    = 30 * time.Second
	worthTelling = 3 * time.Second
)

// emptyCount adds nothing to a counter that every GitLab knows: a question that changes nothing and needs the proof that kas is kas.
var emptyCount = map[string]int64{"k8s_api_proxy_request": 0}

// gitLabChecks are those of the way to GitLab, and of what GitLab leads to.
func (d *Doctor) gitLabChecks() []doctor.Check {
	checks := []doctor.Check{{ID: "gitlab-address", Name: "GitLab", Run: d.gitLabAddress}}
	u, err := url.Parse(d.kas.File.GetGitlab().GetAddress())
	if err != nil || u.Host == "" {
		return checks
	}
	password, _ := u.User.Password()
	d.secrets = append(d.secrets, password)
	bare := *u
	bare.User = nil
	d.gitlab = reach.Target{
		Name: "GitLab", URL: &bare,
		FixAuthority: "Give the authority's certificate in `gitlab.ca_certificate_file` (Omnibus: /etc/gitlab/trusted-certs), or in a folder named by SSL_CERT_DIR.",
	}
	t := &d.gitlab // completed by the first check
	checks = append(
		checks,
		doctor.Check{ID: "gitlab-dns", Name: "DNS of GitLab", Needs: []string{"gitlab-address"}, Run: unreachable(func(ctx context.Context) doctor.Outcome { return t.DNS(ctx) })},
		doctor.Check{ID: "gitlab-tcp", Name: "connection to GitLab", Needs: []string{"gitlab-dns"}, Run: unreachable(func(ctx context.Context) doctor.Outcome { return t.Connect(ctx) })},
	)
	last := "gitlab-tcp"
	if t.Encrypted() {
		checks = append(checks, doctor.Check{ID: "gitlab-tls", Name: "TLS of GitLab", Needs: []string{last}, Run: func(ctx context.Context) doctor.Outcome { return t.Handshake(ctx) }})
		last = "gitlab-tls"
	}
	return append(
		checks,
		doctor.Check{ID: "gitlab-http", Name: "API of GitLab", Needs: []string{last}, Run: d.gitLabHTTP},
		doctor.Check{ID: "gitlab-secret", Name: "secret of kas", Needs: []string{"gitlab-http", "secrets"}, Run: d.gitLabSecret},
		doctor.Check{ID: "gitaly", Name: "Gitaly", Needs: []string{"gitlab-secret"}, Run: d.gitaly},
	)
}

// unreachable gives what keeps kas from GitLab one class, whatever the hop.
func unreachable(run func(context.Context) doctor.Outcome) func(context.Context) doctor.Outcome {
	return func(ctx context.Context) doctor.Outcome {
		o := run(ctx)
		if o.Status == doctor.Fail && !strings.HasPrefix(o.Cause, "proxy-") {
			o.Cause = "gitlab-unreachable"
		}
		return o
	}
}

// gitLabAddress checks what can be known without a network.
func (d *Doctor) gitLabAddress(context.Context) doctor.Outcome {
	cf := d.kas.File.GetGitlab()
	u, err := url.Parse(cf.GetAddress())
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return doctor.Bad("kas-configuration", "gitlab.address must begin with http:// or https:// and a host")
	}
	if file := cf.GetCaCertificateFile(); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return doctor.Bad("ca-file", "gitlab.ca_certificate_file: %v", err)
		}
		if d.roots, err = x509.SystemCertPool(); err != nil {
			d.roots = x509.NewCertPool()
		}
		if !d.roots.AppendCertsFromPEM(pem) {
			return doctor.Bad("ca-file", "gitlab.ca_certificate_file: %s holds no PEM certificate", file)
		}
		d.gitlab.TLS = &tls.Config{RootCAs: d.roots, MinVersion: tls.VersionTLS12}
	}
	return doctor.Good("%s", (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
}

// gitLabHTTP asks GitLab's API as nobody, and compares the clocks.
func (d *Doctor) gitLabHTTP(ctx context.Context) doctor.Outcome {
	at := *d.gitlab.URL
	at.Path = strings.TrimSuffix(at.Path, "/") + "/api/v4/version"
	a, o := d.gitlab.Get(ctx, &at, http.Header{"Accept": {"application/json"}})
	switch {
	case a == nil:
		o.Cause = "gitlab-trouble"
		return o
	case a.Code != http.StatusUnauthorized && a.Code != http.StatusOK && a.Code != http.StatusForbidden, a.HTML():
		return doctor.Bad("gitlab-trouble", "%s answered %d", at.Redacted(), a.Code)
	case !a.Dated:
		return doctor.Good("it answers; the answer has no Date to compare the clocks by")
	case a.Offset < -maxAhead, a.Offset > maxBehind:
		return doctor.Bad("clock-offset", "the clock of GitLab is %s", reach.Ahead(a.Offset))
	case a.Offset.Abs() > worthTelling:
		return doctor.Doubt("clock-offset", "the clock of GitLab is %s", reach.Ahead(a.Offset))
	}
	return doctor.Good("it answers, and its clock is ours")
}

func (d *Doctor) client() (*gitlab.Client, error) {
	cf := d.kas.File.GetGitlab()
	return gitlab.New(gitlab.Config{
		Address: cf.GetAddress(), SecretFile: cf.GetAuthenticationSecretFile(), CAFile: cf.GetCaCertificateFile(), Log: zap.NewNop(),
	})
}

// gitLabSecret has GitLab check the proof by which it knows kas.
func (d *Doctor) gitLabSecret(ctx context.Context) doctor.Outcome {
	client, err := d.client()
	if err != nil {
		return doctor.Bad("secret-file", "%v", err)
	}
	defer client.Close()
	err = client.PostUsage(ctx, emptyCount, nil)
	var code *gitlab.StatusError
	switch {
	case err == nil:
		return doctor.Good("GitLab accepts it")
	case strings.Contains(err.Error(), "does not accept the proof"), errors.As(err, &code) && code.Code == http.StatusUnauthorized:
		return doctor.Bad("kas-secret-refused", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return doctor.Bad("too-slow", "GitLab did not answer")
	default:
		return doctor.Bad("gitlab-trouble", "%v", err)
	}
}

// gitaly reads the repository of the agent whose token was given: only GitLab knows where repositories are, and it tells by agent.
func (d *Doctor) gitaly(ctx context.Context) doctor.Outcome {
	if d.cfg.AgentToken == "" {
		return doctor.Skip("its address is only known by agent: give --agent-token-file")
	}
	client, err := d.client()
	if err != nil {
		return doctor.Bad("secret-file", "%v", err)
	}
	defer client.Close()
	found, err := client.AgentByToken(ctx, d.cfg.AgentToken)
	if err != nil {
		if fault.KindOf(err) == fault.Unavailable {
			return doctor.Bad("gitlab-trouble", "%v", err)
		}
		return doctor.Bad("agent-token-refused", "GitLab says of the token in --agent-token-file: %v", err)
	}
	d.secrets = append(d.secrets, found.Project.Gitaly.GetToken())
	git, err := gitaly.New(gitaly.Config{Log: zap.NewNop(), Roots: d.roots})
	if err != nil {
		return doctor.Bad("gitaly-unreachable", "%v", err)
	}
	defer git.Close()
	files, err := git.AgentConfigFiles(ctx, found.Project)
	if err != nil {
		return doctor.Bad("gitaly-unreachable", "%s: %v", found.Project.Gitaly.GetAddress(), err)
	}
	return doctor.Good("%s; %s has configuration files of %d agents", found.Project.Gitaly.GetAddress(), found.Project.Path, len(files))
}
