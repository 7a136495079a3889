package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

const (
	// maxElements and maxBulk bound what is believed of an answer.
	maxElements = 1024
	maxBulk     = 1 << 20
)

// redisError is what Redis says against a command.
type redisError string

func (e redisError) Error() string { return string(e) }

// errNotRedis says that the other end speaks another protocol.
var errNotRedis = errors.New("the answer is not one of Redis")

// redisConn is a connection on which commands are asked one after the other.
type redisConn struct {
	conn   net.Conn
	reader *bufio.Reader
}

func newRedisConn(conn net.Conn) *redisConn {
	return &redisConn{conn: conn, reader: bufio.NewReader(conn)}
}

func (c *redisConn) close() { _ = c.conn.Close() }

// login sends the password, if there is one, and a PING, which is refused to those who should have sent one.
func (c *redisConn) login(user, password string) error {
	if password != "" {
		args := []string{"AUTH", password}
		if user != "" {
			args = []string{"AUTH", user, password}
		}
		if _, err := c.do(args...); err != nil {
			return err
		}
	}
	answer, err := c.do("PING")
	if err == nil && answer != "PONG" {
		return errNotRedis
	}
	if err != nil && strings.HasPrefix(err.Error(), "LOADING") {
		return nil
	}
	return err
}

// do sends a command; the elements of an array come back with newlines between.
func (c *redisConn) do(args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return "", err
	}
	return c.read(0)
}

// read takes one reply, at most a few levels deep.
func (c *redisConn) read(depth int) (string, error) {
	const deepest = 4
	line, err := c.reader.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" || depth > deepest {
		return "", errNotRedis
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return "", redisError(line[1:])
	case '$':
		size, err := strconv.Atoi(line[1:])
		if err != nil || size > maxBulk {
			return "", errNotRedis
		}
		if size < 0 {
			return "", nil
		}
		body := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(c.reader, body); err != nil {
			return "", err
		}
		return string(body[:size]), nil
	case '*':
		return c.readArray(line[1:], depth)
	default:
		return "", errNotRedis
	}
}

func (c *redisConn) readArray(count string, depth int) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n > maxElements {
		return "", errNotRedis
	}
	var parts []string
	for range n {
		part, err := c.read(depth + 1)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "\n"), nil
}
