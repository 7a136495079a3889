package gitlab

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

const (
	// secretSize is that of the secret Rails and kas share, in bytes.
	secretSize = 32
	// headerPatience bounds how long a client may take to send its request's header.
	headerPatience = 10 * time.Second
)

// Config says what kind of GitLab to be. Every field has a default.
type Config struct {
	// Version is the GitLab version whose behaviour to show, "<major>.<minor>"; default 18.3. Gitaly's personality follows it.
	Version string
	// Settings are those that can also be changed while it runs.
	Settings Settings
	// Dir receives repositories, sockets, secrets and builds and is kept by Stop; empty: a temporary folder that Stop removes.
	Dir string
	// Listen is host:port of the HTTP server; default 127.0.0.1 and a free port.
	Listen string
	// PathPrefix is where GitLab lives below its host, such as "/sub"; default the root.
	PathPrefix string
	// Certificate makes the server speak HTTPS.
	Certificate *tls.Certificate
	// Secret is the one shared with kas, 32 bytes; default a random one.
	Secret []byte
	// GitalyToken is the secret shared with Gitaly; default a random one. NoGitalyToken: Gitaly asks for none.
	GitalyToken   string
	NoGitalyToken bool
	// GitalyTCP hands out Gitaly's TCP address instead of its socket.
	GitalyTCP bool
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Settings are what an administrator can change.
type Settings struct {
	Tier Tier
	// InstanceAuthorization lets agents name projects and groups outside their root namespace, and the whole instance.
	InstanceAuthorization bool
	// NoUserAccess switches access with cookies and personal access tokens off.
	NoUserAccess bool
	// NoPushNotification: kas is not told of pushes.
	NoPushNotification bool
	// TokenHeaders are the headers that an agent's token is looked for in; default those of the version.
	TokenHeaders []string
	// Features are handed to kas for Gitaly; their keys begin with "gitaly-feature-".
	Features map[string]string
	// ReceptiveAgents are those that kas is to dial; only with Ultimate.
	ReceptiveAgents []ReceptiveAgent
	// Modules serve what modules of agents ask for, by the module's name; "starboard_vulnerability" has a default.
	Modules map[string]http.Handler
	// Kas is where kas is.
	Kas KasSettings
}

// GitLab is a running double. Its exported fields do not change.
type GitLab struct {
	// URL is where it is, without a slash at the end.
	URL string
	// Dir is below which all its files are.
	Dir string
	// Secret is shared with kas; SecretFile holds it as kas reads it.
	Secret     []byte
	SecretFile string
	// Gitaly serves the repositories.
	Gitaly *gitaly.Server

	cfg       Config
	release   release
	temporary bool
	git       *git
	server    *http.Server
	served    chan error
	traffic   traffic
	workers   workers
	kas       kasChannel

	// mu guards settings and everything that is in the database of a real one. It is never held while anything is waited for.
	mu       sync.Mutex
	settings Settings
	db       database
}

// Start starts one. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*GitLab, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	version, err := parseRelease(cfg.Version)
	if err != nil {
		return nil, err
	}
	g := &GitLab{
		cfg: cfg, release: version, Secret: cfg.Secret, settings: cfg.Settings, db: newDatabase(), served: make(chan error, 1),
		traffic: newTraffic(), workers: newWorkers(),
	}
	if err := g.start(ctx); err != nil {
		g.Stop()
		return nil, fmt.Errorf("start GitLab double: %w", err)
	}
	return g, nil
}

func (c *Config) complete() error {
	if c.Version == "" {
		c.Version = "18.3"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Secret == nil {
		c.Secret = make([]byte, secretSize)
		_, _ = rand.Read(c.Secret)
	}
	if len(c.Secret) != secretSize {
		return fmt.Errorf("the secret shared with kas has %d bytes, not %d", len(c.Secret), secretSize)
	}
	if c.GitalyToken == "" && !c.NoGitalyToken {
		c.GitalyToken = rand.Text()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.PathPrefix = strings.TrimSuffix(c.PathPrefix, "/")
	if c.PathPrefix != "" && c.PathPrefix[0] != '/' {
		return errors.New("the path prefix must begin with a slash")
	}
	return nil
}

func (g *GitLab) start(ctx context.Context) error {
	err := g.makeDir()
	if err != nil {
		return err
	}
	g.SecretFile = g.path("gitlab_kas_secret")
	if err := os.WriteFile(g.SecretFile, []byte(base64.StdEncoding.EncodeToString(g.Secret)+"\n"), 0o600); err != nil {
		return err
	}
	if g.git, err = newGit(ctx, g.path("home")); err != nil {
		return err
	}
	g.Gitaly, err = gitaly.Start(gitaly.Config{
		Storages:    map[string]string{storageName: g.path("repositories")},
		Token:       g.cfg.GitalyToken,
		Personality: gitaly.PersonalityOf(g.release.major, g.release.minor),
		Socket:      g.path("gitaly.sock"),
		Home:        g.path("home"),
		Now:         g.cfg.Now,
	})
	if err != nil {
		return err
	}
	return g.listen(ctx)
}

func (g *GitLab) makeDir() error {
	g.temporary = g.cfg.Dir == ""
	var err error
	if g.temporary {
		g.Dir, err = os.MkdirTemp("", "gl-") // short: paths of unix sockets are limited
	} else {
		g.Dir, err = filepath.Abs(g.cfg.Dir)
	}
	if err != nil {
		return err
	}
	for _, sub := range []string{"repositories", "home", "builds"} {
		if err := os.MkdirAll(g.path(sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (g *GitLab) listen(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", g.cfg.Listen)
	if err != nil {
		return err
	}
	scheme := "http://"
	if g.cfg.Certificate != nil {
		scheme = "https://"
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{*g.cfg.Certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
	}
	g.URL = scheme + listener.Addr().String() + g.cfg.PathPrefix
	g.server = &http.Server{Handler: g.handler(), ReadHeaderTimeout: headerPatience}
	go func() { g.served <- g.server.Serve(listener) }()
	return nil
}

// Stop ends it at once and removes its temporary folder. It may be called more than once.
func (g *GitLab) Stop() {
	g.traffic.stop()
	if g.server != nil {
		_ = g.server.Close()
		<-g.served
		g.server = nil
		g.traffic.wait()
	}
	g.workers.stop()
	g.kas.close()
	if g.Gitaly != nil {
		g.Gitaly.Stop()
	}
	if g.temporary {
		_ = os.RemoveAll(g.Dir)
	}
}

// Change changes settings.
func (g *GitLab) Change(change func(*Settings)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.settings)
}

// current returns the settings as they are now.
func (g *GitLab) current() Settings {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.settings
}

func (g *GitLab) path(name string) string { return filepath.Join(g.Dir, name) }

// host is what Rails calls itself in its tokens: the host without a port.
func (g *GitLab) host() string {
	host, _, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(g.URL, "https://"), "http://"), g.cfg.PathPrefix))
	if err != nil {
		return "localhost"
	}
	return host
}
