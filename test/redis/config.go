package redis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Config says what server to run. The zero value is a server on a free loopback port that keeps nothing on disk.
type Config struct {
	// Dir is where the server keeps its files; it must exist. StartT takes a new folder when it is empty.
	Dir string
	// Port is the port on 127.0.0.1; 0 takes a free one.
	Port int
	// Unix also listens on Server.Socket.
	Unix bool
	// TLS makes the port speak TLS only, with a certificate for 127.0.0.1 and localhost of Server.CAFile.
	TLS bool
	// ClientCertificates makes TLS refuse clients without a certificate; Server.ClientCertFile and ClientKeyFile have one.
	ClientCertificates bool
	// Password is what clients have to give: of the user Username when that is set (nobody else may then do anything), or of the
	// default user. Server.PasswordFile holds it.
	Username, Password string
	// Rules are what the user Username may do, as of "ACL SETUSER"; empty means everything.
	Rules string
	// MaxMemory is a limit such as "3mb". A full server refuses what needs more, with the error OOM.
	MaxMemory string
	// Persist keeps the data over Stop and Kill (append-only file, written through), so that a restarted server still has it.
	Persist bool
	// Lines are further lines of redis.conf.
	Lines []string

	// certificates is where the certificates are, if Dir has none of its own.
	certificates string
	// sentinel is set for a server that watches others: it knows few of the settings.
	sentinel bool
}

func (s *Server) configuration() string {
	c := s.cfg
	if c.sentinel {
		return s.sentinelConfiguration()
	}
	lines := []string{
		"bind 127.0.0.1", "protected-mode no", "daemonize no", "save \"\"", "dir " + c.Dir,
		"loglevel notice", "databases 16", "enable-debug-command yes", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
	}
	lines = append(lines, s.portLines()...)
	if c.Unix {
		lines = append(lines, "unixsocket "+s.Socket(), "unixsocketperm 700")
	}
	switch {
	case c.Username != "":
		rules := c.Rules
		if rules == "" {
			rules = "~* &* +@all"
		}
		lines = append(lines, "user default off", fmt.Sprintf("user %s on >%s %s", c.Username, c.Password, rules),
			fmt.Sprintf("user %s on >%s ~* &* +@all", overseer, overseerPassword))
	case c.Password != "":
		lines = append(lines, "requirepass "+c.Password, "masterauth "+c.Password)
	}
	if c.MaxMemory != "" {
		lines = append(lines, "maxmemory "+c.MaxMemory, "maxmemory-policy noeviction")
	}
	if c.Persist {
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	return strings.Join(append(lines, c.Lines...), "\n") + "\n"
}

func (s *Server) portLines() []string {
	if !s.cfg.TLS {
		return []string{fmt.Sprintf("port %d", s.port)}
	}
	auth := "no"
	if s.cfg.ClientCertificates {
		auth = "yes"
	}
	return []string{
		"port 0", fmt.Sprintf("tls-port %d", s.port), "tls-cert-file " + s.certificate("server.crt"),
		"tls-key-file " + s.certificate("server.key"), "tls-ca-cert-file " + s.CAFile(), "tls-auth-clients " + auth,
	}
}

func (s *Server) sentinelConfiguration() string {
	lines := []string{"bind 127.0.0.1", "protected-mode no", "daemonize no", "dir " + s.cfg.Dir}
	lines = append(lines, s.portLines()...)
	if s.cfg.Password != "" {
		lines = append(lines, "requirepass "+s.cfg.Password)
	}
	return strings.Join(append(lines, s.cfg.Lines...), "\n") + "\n"
}

// The overseer is the user that the test itself is where the user under test may not do everything.
const overseer, overseerPassword = "overseer", "overseer-of-tests"

// credentials are what Do says to the server.
func (s *Server) credentials() []string {
	switch {
	case s.cfg.Username != "":
		return []string{"AUTH", overseer, overseerPassword}
	case s.cfg.Password != "":
		return []string{"AUTH", s.cfg.Password}
	default:
		return nil
	}
}

func (s *Server) writeFiles() error {
	if s.cfg.TLS && s.cfg.certificates == "" {
		if err := writeCertificates(s.cfg.Dir); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	return os.WriteFile(s.PasswordFile(), []byte(s.cfg.Password), 0o600)
}

func (s *Server) certificate(name string) string {
	if s.cfg.certificates != "" {
		return filepath.Join(s.cfg.certificates, name)
	}
	return s.path(name)
}

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// Address is host:port. It stays the same when the server is started again.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// Socket is the path of the unix socket, if there is one.
func (s *Server) Socket() string { return s.path("redis.sock") }

// PasswordFile holds Config.Password, without a newline.
func (s *Server) PasswordFile() string { return s.path("password") }

// CAFile is the certificate that signed the server's and the client's, PEM.
func (s *Server) CAFile() string { return s.certificate("ca.crt") }

// ClientCertFile and ClientKeyFile are a client certificate that a server with ClientCertificates accepts, PEM.
func (s *Server) ClientCertFile() string { return s.certificate("client.crt") }

// ClientKeyFile is the key of ClientCertFile.
func (s *Server) ClientKeyFile() string { return s.certificate("client.key") }

// LogFile is what the server has to say, over all its starts.
func (s *Server) LogFile() string { return s.path("redis.log") }
