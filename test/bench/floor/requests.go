package floor

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialLimit   = 10 * time.Second
	headerLimit = 10 * time.Second
	// perHost is how many connections to the API server there are at most, as agentk has.
	perHost = 64
	// bufferSize is that of agentk's connections to the API server, in bytes.
	bufferSize = 32 << 10
)

// asker is the front: each request waits for the message with its id.
type asker struct {
	link *link
	ids  atomic.Uint32
	// gone is closed when there will be no answers any more.
	gone    chan struct{}
	mu      sync.Mutex // guards waiting
	waiting map[uint32]chan message
}

func frontRequests(ctx context.Context, ln net.Listener, back string) error {
	conn, err := dial(ctx, back)
	if err != nil {
		_ = ln.Close()
		return fmt.Errorf("dial the back: %w", err)
	}
	a := &asker{link: newLink(conn), gone: make(chan struct{}), waiting: map[uint32]chan message{}}
	server := &http.Server{Handler: a, ReadHeaderTimeout: headerLimit}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	var receiving sync.WaitGroup
	receiving.Go(func() {
		defer close(a.gone)
		a.receive()
		_ = server.Close()
	})
	err = server.Serve(ln)
	_ = conn.Close()
	receiving.Wait()
	return ended(err)
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "tcp", address)
}

func (a *asker) receive() {
	for {
		m, err := a.link.receive()
		if err != nil {
			return
		}
		a.mu.Lock()
		answer := a.waiting[m.id()]
		delete(a.waiting, m.id())
		a.mu.Unlock()
		if answer != nil {
			answer <- m // has a place for it
		}
	}
}

func (a *asker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m := newMessage(a.ids.Add(1)).add(r.Method).add(r.URL.RequestURI()).addHeader(r.Header).add(string(body))
	answer := make(chan message, 1)
	a.mu.Lock()
	a.waiting[m.id()] = answer
	a.mu.Unlock()
	if err := a.link.send(m); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	select {
	case m := <-answer:
		f := m.fields()
		status := f.number()
		f.header(w.Header())
		text := f.next()
		if f.err != nil {
			http.Error(w, f.err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text) // the client may have gone
	case <-a.gone:
		http.Error(w, "the back has gone", http.StatusBadGateway)
	}
}

// doer is the back: it does what each message asks for, all at once.
type doer struct {
	base      string
	transport *http.Transport
}

func backRequests(ctx context.Context, ln net.Listener, api string, secure *tls.Config) error {
	d := &doer{base: "https://" + api, transport: &http.Transport{
		TLSClientConfig: secure, DisableCompression: true, MaxConnsPerHost: perHost, MaxIdleConnsPerHost: perHost,
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize, TLSHandshakeTimeout: dialLimit,
	}}
	defer d.transport.CloseIdleConnections()
	return each(ctx, ln, func(ctx context.Context, conn net.Conn) {
		l := newLink(conn)
		var doing sync.WaitGroup
		defer doing.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for {
			m, err := l.receive()
			if err != nil {
				return
			}
			doing.Go(func() {
				if l.send(d.do(ctx, m)) != nil {
					_ = conn.Close()
				}
			})
		}
	})
}

// do asks the API server and returns the answer.
func (d *doer) do(ctx context.Context, m message) message {
	answer, err := d.ask(ctx, m)
	if err != nil {
		return newAnswer(m, http.StatusBadGateway).addHeader(nil).add(err.Error())
	}
	return answer
}

// newAnswer begins the answer to a message.
func newAnswer(m message, status int) message {
	return binary.AppendUvarint(newMessage(m.id()), uint64(status))
}

func (d *doer) ask(ctx context.Context, m message) (message, error) {
	f := m.fields()
	method, uri, header := f.next(), f.next(), http.Header{}
	f.header(header)
	body := f.next()
	if f.err != nil {
		return nil, f.err
	}
	request, err := http.NewRequestWithContext(ctx, method, d.base+uri, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := d.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return newAnswer(m, response.StatusCode).addHeader(response.Header).add(string(text)), nil
}

// each serves every connection of a listener until ctx ends.
func each(ctx context.Context, ln net.Listener, serve func(context.Context, net.Conn)) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return ended(err)
		}
		serving.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			serve(ctx, conn)
		})
	}
}

// eachPair is each with another connection beside every one, which open opens.
func eachPair(
	ctx context.Context, ln net.Listener, open func(context.Context) (net.Conn, error), serve func(ctx context.Context, conn, other net.Conn),
) error {
	return each(ctx, ln, func(ctx context.Context, conn net.Conn) {
		other, err := open(ctx)
		if err != nil {
			return
		}
		defer func() { _ = other.Close() }()
		defer context.AfterFunc(ctx, func() { _ = other.Close() })()
		serve(ctx, conn, other)
	})
}
