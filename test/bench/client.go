package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// wireLimit bounds the life of a connection beyond what is measured on it.
const wireLimit = time.Minute

// wire is one keep-alive connection that asks for one path again and again. It allocates nothing per request: whoever makes the load
// shares the processors with what is measured.
type wire struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
	forget  func() bool
}

// wire opens a connection that lives as long as ctx, and at most for d and a minute.
func (t target) wire(ctx context.Context, path string, d time.Duration) (*wire, error) {
	u, err := url.Parse(t.base + path)
	if err != nil {
		return nil, err
	}
	conn, err := t.dial(ctx, u)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(d + wireLimit)); err != nil {
		return nil, err
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\n", u.RequestURI(), u.Host)
	_ = t.header.Write(&request) // a buffer never fails
	request.WriteString("\r\n")
	return &wire{
		conn: conn, r: bufio.NewReaderSize(conn, 64<<10), request: request.Bytes(),
		forget: context.AfterFunc(ctx, func() { _ = conn.Close() }),
	}, nil
}

// dial opens a connection for HTTP/1.1, as both sides of a comparison speak.
func (t target) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Scheme == "http" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	}
	dialer := &tls.Dialer{Config: t.client.Transport.(*http.Transport).TLSClientConfig.Clone()}
	dialer.Config.NextProtos = []string{"http/1.1"}
	return dialer.DialContext(ctx, "tcp", u.Host)
}

func (w *wire) close() {
	w.forget()
	_ = w.conn.Close()
}

// get asks once and returns the size of the answer, which has to be a 200.
func (w *wire) get() (int64, error) {
	if _, err := w.conn.Write(w.request); err != nil {
		return 0, err
	}
	line, err := w.r.ReadSlice('\n')
	if err != nil {
		return 0, fmt.Errorf("read the status: %w", err)
	}
	if len(line) < 12 || string(line[9:12]) != "200" {
		return 0, fmt.Errorf("answered %s", bytes.TrimSpace(line))
	}
	length, err := w.header()
	if err != nil {
		return 0, fmt.Errorf("read the header: %w", err)
	}
	if length >= 0 {
		return length, w.skip(length)
	}
	return w.chunks()
}

// header reads up to the body and returns its length, -1 for chunks.
func (w *wire) header() (int64, error) {
	length := int64(-1)
	for {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			return length, nil
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len(name):])), 10, 64); err != nil {
				return 0, err
			}
		}
	}
}

func (w *wire) chunks() (int64, error) {
	var total int64
	for {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 64)
		if err != nil {
			return total, fmt.Errorf("size of a chunk: %w", err)
		}
		if size == 0 {
			_, err := w.header() // trailers
			return total, err
		}
		if err := w.skip(size + 2); err != nil {
			return total, err
		}
		total += size
	}
}

func (w *wire) skip(n int64) error {
	_, err := w.r.Discard(int(n))
	return err
}
