package plain

import (
	"context"
	"errors"
	"io"
	"testing"
)

var errWhy = errors.New("why it ends")

// The end of the context closes the connection, whatever is under way.
func TestPool_ContextEnds(t *testing.T) {
	for name, head := range map[string]string{
		"before the answer": "",
		"in the head":       "HTTP/1.1 200 OK\r\nContent-",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
		"in a watch":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			said, closed := make(chan struct{}), make(chan bool, 1)
			c, s := dial(t, func(p *peer) {
				p.request()
				p.say(head)
				close(said)
				closed <- p.closed()
			}, answer(1, ok))
			req := c.request("GET")
			ctx, cancel := context.WithCancelCause(req.Context())
			go func() {
				<-said
				cancel(errWhy)
			}()
			resp, err := c.RoundTrip(req.WithContext(ctx))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, errWhy) {
				t.Error(err)
			}
			if !<-closed {
				t.Error("the connection stays open")
			}
			c.want("GET", 200, "ok")
			s.connections(t, 2)
		})
	}
	t.Run("before the request", func(t *testing.T) {
		c, s := dial(t, answer(1, ok))
		req := c.request("GET")
		ctx, cancel := context.WithCancelCause(req.Context())
		cancel(errWhy)
		if _, err := c.RoundTrip(req.WithContext(ctx)); !errors.Is(err, errWhy) {
			t.Error(err)
		}
		s.connections(t, 0)
	})
}

// The end of the context after the answer does no harm to whoever uses the connection then.
func TestPool_ContextEndsAfterwards(t *testing.T) {
	c, s := dial(t, answer(2, ok))
	req := c.request("GET")
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := c.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	next, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
	if text, err := io.ReadAll(next.Body); err != nil || string(text) != "ok" {
		t.Error(string(text), err)
	}
	s.connections(t, 1)
}

// A body that is closed before its end, also during a Read, takes the connection with it.
func TestPool_BodyClosedEarly(t *testing.T) {
	closed := make(chan bool, 1)
	c, s := dial(t, func(p *peer) {
		p.request()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		closed <- p.closed()
	}, answer(1, ok))
	resp, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := resp.Body.Read(first)
		read <- err
	}()
	_ = resp.Body.Close()
	if err := <-read; err == nil || err == io.EOF {
		t.Error(err)
	}
	if !<-closed {
		t.Error("the connection stays open")
	}
	if _, err := resp.Body.Read(first); !errors.Is(err, errBodyClosed) {
		t.Error(err)
	}
	c.want("GET", 200, "ok")
	s.connections(t, 2)
}
