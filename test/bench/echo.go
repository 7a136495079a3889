package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// keystrokes is how many single bytes one measurement sends.
const keystrokes = 500

// echo opens an upgraded connection and returns the median time, in milliseconds, from a byte sent to the byte coming back: what
// a user of "kubectl exec -it" feels per key.
func (t target) echo(ctx context.Context, path string) (float64, error) {
	u, err := url.Parse(t.base + path)
	if err != nil {
		return 0, err
	}
	dialer := &tls.Dialer{Config: t.client.Transport.(*http.Transport).TLSClientConfig.Clone()}
	dialer.Config.NextProtos = []string{"http/1.1"}
	conn, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	r, err := upgrade(conn, u, t.header)
	if err != nil {
		return 0, err
	}
	times := make([]time.Duration, 0, keystrokes)
	key := []byte{'k'}
	for range keystrokes {
		at := time.Now()
		if _, err := conn.Write(key); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(r, key); err != nil {
			return 0, err
		}
		times = append(times, time.Since(at))
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
