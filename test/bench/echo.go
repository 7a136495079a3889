package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

const echoPath = "/api/v1/namespaces/default/pods/p/exec"

// fakeEchoes is what the line itself adds to each key.
func fakeEchoes(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	direct, line, err := alternate(ctx, st.effort, s.fakeDirect.echo, s.fakeLine.echo)
	if err != nil {
		return nil, err
	}
	return []row{figure("echo_p50_fake_ms", "ms", direct, line, goal{of: added})},
		st.profile(ctx, s.l, s.fakeAgent, "echo", func(ctx context.Context, d time.Duration) error {
			_, err := s.fakeLine.echo(ctx, d)
			return err
		})
}

// echo opens an upgraded connection, sends single bytes for a while, and returns the median time, in milliseconds, from a byte sent to
// the byte coming back.
func (t target) echo(ctx context.Context, d time.Duration) (float64, error) {
	u, err := url.Parse(t.base + echoPath)
	if err != nil {
		return 0, err
	}
	conn, err := t.dial(ctx, u)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(d + wireLimit)); err != nil {
		return 0, err
	}
	r, err := upgrade(conn, u, t.header)
	if err != nil {
		return 0, err
	}
	return typeKeys(conn, r, d)
}

// keystrokes is the same with an exec in a container, whose program returns every byte, and the client that kubectl is made of.
func (t target) keystrokes(ctx context.Context, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+wireLimit)
	defer cancel()
	executor, err := remotecommand.NewWebSocketExecutor(t.config(), http.MethodGet, t.base+execPath("echo"))
	if err != nil {
		return 0, err
	}
	stdin, keys := io.Pipe()
	screen, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout})
		_ = stdin.CloseWithError(err) // nobody types or reads any more
		_ = stdout.CloseWithError(err)
		ended <- err
	}()
	p50, err := typeKeys(keys, screen, d)
	_ = keys.Close()
	if err != nil {
		cancel()
		_ = screen.Close()
	}
	return p50, errors.Join(err, <-ended)
}

// typeKeys sends single bytes, each when the one before has come back, and returns the median time of that in milliseconds.
func typeKeys(keyboard io.Writer, screen io.Reader, d time.Duration) (float64, error) {
	times := make([]time.Duration, 0, 1<<14)
	key := []byte{'k'}
	for end := time.Now().Add(d); ; {
		at := time.Now()
		if _, err := keyboard.Write(key); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(screen, key); err != nil {
			return 0, err
		}
		times = append(times, time.Since(at))
		if at.After(end) {
			break
		}
	}
	slices.Sort(times)
	return float64(times[len(times)/2]) / float64(time.Millisecond), nil
}

func upgrade(conn net.Conn, u *url.URL, header http.Header) (*bufio.Reader, error) {
	req := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: header.Clone(), ContentLength: 0}
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("Connection", "Upgrade")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("upgrade of %s answered %s", u.Path, resp.Status)
	}
	return r, nil
}
