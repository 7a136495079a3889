// Package server has the doctor's checks of kas: its configuration file and the files that this names, its listeners, and what it needs
// of others: GitLab, Gitaly, Redis. It changes nothing, and may be run beside a kas that is up.
package server

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"strings"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/protoyaml"
)

// Config says what to look at.
type Config struct {
	// Path of the configuration file.
	Path string
	// Getenv is os.Getenv outside of tests.
	Getenv func(string) string
	// AgentToken is that of some agent, by which GitLab tells the address of its repository; empty: Gitaly is not looked at.
	AgentToken string
}

// Doctor makes the checks of one kas.
type Doctor struct {
	cfg     Config
	kas     *config.Config // nil: the file cannot be used
	loadErr error
	gitlab  reach.Target
	// roots verify GitLab besides the system's authorities; nil: these only.
	roots *x509.CertPool
	// secrets are what the report must not show.
	secrets []string
}

// New reads the configuration file, and runs the command that it may name.
func New(ctx context.Context, cfg Config) *Doctor {
	d := &Doctor{cfg: cfg, secrets: []string{cfg.AgentToken}}
	d.kas, d.loadErr = config.Load(ctx, cfg.Path)
	return d
}

// Secrets are those that were come across.
func (d *Doctor) Secrets() []string { return d.secrets }

// Checks are all that can be made with the configuration, in order.
func (d *Doctor) Checks() []doctor.Check {
	checks := []doctor.Check{{ID: "configuration", Name: "configuration", Run: d.configuration}}
	if d.loadErr != nil {
		return checks
	}
	checks = append(
		checks,
		doctor.Check{ID: "environment", Name: "environment", Run: d.environment},
		doctor.Check{ID: "secrets", Name: "secrets", Run: d.secretFiles},
		doctor.Check{ID: "certificates", Name: "certificates", Run: d.certificates},
	)
	checks = append(checks, d.listeners()...)
	if d.kas.Standalone() {
		checks = append(checks, doctor.Check{ID: "repositories", Name: "repositories", Run: d.repositories})
	} else {
		checks = append(checks, d.gitLabChecks()...)
	}
	return append(checks, d.redisChecks()...)
}

// configuration tells the mistakes of the file.
func (d *Doctor) configuration(context.Context) doctor.Outcome {
	var mistakes protoyaml.Mistakes
	switch {
	case errors.As(d.loadErr, &mistakes):
		var texts []string
		for _, m := range mistakes {
			texts = append(texts, m.String())
		}
		return doctor.Bad("kas-configuration", "%s: %s", d.cfg.Path, strings.Join(texts, "; "))
	case d.loadErr != nil:
		return doctor.Bad("kas-configuration", "%v", d.loadErr)
	case len(d.kas.Warnings) > 0:
		return doctor.Doubt("kas-configuration-warning", "%s: %s", d.cfg.Path, strings.Join(d.kas.Warnings, "; "))
	}
	return doctor.Good("%s", d.cfg.Path)
}

// environment checks the variables that say where other replicas find this one.
func (d *Doctor) environment(context.Context) doctor.Outcome {
	if err := d.kas.CheckEnvironment(d.cfg.Getenv); err != nil {
		return doctor.Bad("own-address", "%v", err)
	}
	own := d.cfg.Getenv("OWN_PRIVATE_API_URL")
	if own == "" {
		return doctor.Good("nothing contradicts the configuration")
	}
	u, err := url.Parse(own)
	if err != nil { // CheckEnvironment has parsed it
		return doctor.Bad("own-address", "OWN_PRIVATE_API_URL is not a URL")
	}
	tls := d.kas.File.GetPrivateApi().GetListen().GetCertificateFile() != ""
	switch {
	case u.Scheme != "grpc" && u.Scheme != "grpcs" && u.Scheme != "unix" && u.Scheme != "unixs":
		return doctor.Bad("own-address", "OWN_PRIVATE_API_URL has the scheme %q", u.Scheme)
	case u.Scheme == "grpc" && tls, u.Scheme == "grpcs" && !tls:
		return doctor.Bad("own-address", "OWN_PRIVATE_API_URL has the scheme %s, and private_api.listen has %s certificate", u.Scheme,
			map[bool]string{true: "a", false: "no"}[tls])
	case isLoopback(u.Hostname()):
		return doctor.Doubt("own-address", "OWN_PRIVATE_API_URL names this machine only for itself: %s", u.Hostname())
	}
	return doctor.Good("other replicas reach this one at %s", u.Redacted())
}

// repositories looks for those of the agents.
func (d *Doctor) repositories(context.Context) doctor.Outcome {
	section := d.kas.File.GetStandalone()
	var missing []string
	for _, a := range section.GetAgents() {
		dir := section.GetRepositoriesDir() + "/" + a.GetProject() + ".git"
		if _, err := os.Stat(dir + "/HEAD"); err != nil {
			missing = append(missing, dir)
		}
	}
	if len(missing) > 0 {
		return doctor.Bad("repository", "not a bare repository: %s", strings.Join(missing, ", "))
	}
	return doctor.Good("%d agents have one below %s", len(section.GetAgents()), section.GetRepositoriesDir())
}
