package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/test/swarm"
)

// lone is an HTTP/1.1 connection over TLS to the proxy, and nothing else of a client.
type lone struct {
	conn *tls.Conn
	r    *bufio.Reader
	base *url.URL
	// granted and refused are the headers of requests that go to the agent, and that kas answers itself.
	granted, refused http.Header
}

// lones opens n connections for requests to agent i, a few at a time, and makes the first request over each.
func (b *edge) lones(ctx context.Context, i, n int, first func(*lone) error) ([]*lone, error) {
	const atOnce = 8
	base, err := url.Parse(b.kas.ProxyURL)
	if err != nil {
		return nil, err
	}
	all, errs := make([]*lone, n), make([]error, n)
	places := make(chan struct{}, atOnce)
	var opening sync.WaitGroup
	for j := range n {
		places <- struct{}{}
		opening.Go(func() {
			defer func() { <-places }()
			all[j], errs[j] = b.lone(ctx, base, i, first)
		})
	}
	opening.Wait()
	if err := errors.Join(errs...); err != nil {
		closeLones(all)
		return nil, err
	}
	return all, nil
}

func (b *edge) lone(ctx context.Context, base *url.URL, i int, first func(*lone) error) (*lone, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: startLimit},
		Config:    &tls.Config{RootCAs: b.authority.Pool, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
	}
	conn, err := dialer.DialContext(ctx, "tcp", base.Host)
	if err != nil {
		return nil, err
	}
	l := &lone{
		conn: conn.(*tls.Conn), r: bufio.NewReader(conn), base: base,
		granted: http.Header{"Authorization": {"Bearer " + swarm.Bearer(i)}}, refused: http.Header{"Authorization": {"Bearer ci:1:nobody"}},
	}
	if err := first(l); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("first request over a connection: %w", err)
	}
	return l, nil
}

func closeLones(all []*lone) {
	for _, l := range all {
		if l != nil {
			_ = l.conn.Close()
		}
	}
}

// ask sends a GET and returns the answer, whose body is not read yet. All of it has to arrive within limit.
func (l *lone) ask(path, query string, header http.Header, limit time.Duration) (*http.Response, error) {
	if err := l.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	u := *l.base
	u.Path, u.RawQuery = u.Path+path, query
	request := &http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: header}
	if err := request.Write(l.conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(l.r, request)
}

// get reads one whole answer.
func (l *lone) get(path, query string, limit time.Duration) (int64, error) {
	response, err := l.ask(path, query, l.granted, limit)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", path, response.Status)
	}
	return n, errors.Join(err, response.Body.Close())
}

// warm asks the agent for something small.
func (l *lone) warm() error {
	_, err := l.get(podsPath, "", startLimit)
	return err
}

// stayOpen keeps the connection from being closed as idle, by a request that kas refuses: no agent hears of it.
func (l *lone) stayOpen() error {
	response, err := l.ask("/version", "", l.refused, startLimit)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusUnauthorized {
		err = fmt.Errorf("a request without a token was answered %s", response.Status)
	}
	return errors.Join(err, response.Body.Close())
}
