package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const echoPath = "/api/v1/namespaces/default/pods/p/exec"

// echoes is what a user of "kubectl exec -it" feels per key.
func echoes(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	direct, line, err := alternate(ctx, st.effort, s.fakeDirect.echo, s.fakeLine.echo)
	if err != nil {
		return nil, err
	}
	return []row{figure("echo_p50_ms", "ms", direct, line, most(added, 0.3))},
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
	times := make([]time.Duration, 0, 1<<14)
	key := []byte{'k'}
	for end := time.Now().Add(d); ; {
		at := time.Now()
		if _, err := conn.Write(key); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(r, key); err != nil {
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
