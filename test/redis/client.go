package redis

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// askLimit bounds one question.
const askLimit = 20 * time.Second

// Error is what the server answered instead of a value.
type Error string

func (e Error) Error() string { return string(e) }

// Do asks the server one command on a connection of its own, as a user who may do everything, and returns the answer: strings,
// numbers in decimal, the elements of arrays one per line. An error of the server is an Error.
func (s *Server) Do(ctx context.Context, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	if login := s.credentials(); login != nil {
		if _, err := exchange(conn, r, login); err != nil {
			return "", fmt.Errorf("log in: %w", err)
		}
	}
	return exchange(conn, r, command)
}

func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	if !s.cfg.TLS {
		return new(net.Dialer).DialContext(ctx, "tcp", s.Address())
	}
	ca, err := os.ReadFile(s.CAFile())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(s.ClientCertFile(), s.ClientKeyFile())
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	return d.DialContext(ctx, "tcp", s.Address())
}

// Counter is one number of "INFO", such as total_commands_processed, expired_keys or connected_clients.
func (s *Server) Counter(ctx context.Context, name string) (int64, error) {
	info, err := s.Do(ctx, "INFO")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), ":"); key == name {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("redis has no counter %q", name)
}

// Commands is how many commands the server has been sent since it started, scripts counted as one and its own pings not at all. A
// question with Do, this one included, counts too.
func (s *Server) Commands(ctx context.Context) (int64, error) {
	stats, err := s.Do(ctx, "INFO", "commandstats")
	if err != nil {
		return 0, err
	}
	var total int64
	for line := range strings.Lines(stats) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":calls=")
		calls, _, _ := strings.Cut(rest, ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if !ok || err != nil || name == "cmdstat_ping" {
			continue
		}
		total += n
	}
	return total, nil
}

// Keys are all keys of database 0 that match a pattern as of "SCAN", sorted.
func (s *Server) Keys(ctx context.Context, pattern string) ([]string, error) {
	answer, err := s.Do(ctx, "KEYS", pattern)
	if err != nil || answer == "" {
		return nil, err
	}
	keys := strings.Split(answer, "\n")
	slices.Sort(keys)
	return keys, nil
}

func exchange(w io.Writer, r *bufio.Reader, command []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(command))
	for _, arg := range command {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return "", err
	}
	return answer(r)
}

// answer reads one value of the Redis protocol, version 2.
func answer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("redis sent an empty line")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", Error(rest)
	case '$', '*':
	default:
		return "", fmt.Errorf("redis sent %q", line)
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 0 {
		return "", err
	}
	if kind == '$' {
		buf := make([]byte, n+2)
		_, err := io.ReadFull(r, buf)
		return string(buf[:n]), err
	}
	parts := make([]string, 0, n)
	for range n {
		part, err := answer(r)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "\n"), nil
}
