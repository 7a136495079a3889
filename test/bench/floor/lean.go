package floor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
)

// frontLean serves a client's connection on one goroutine, from reading the request to writing the answer, and asks the back on a
// connection of its own. A client that leaves is noticed when its answer is there.
func frontLean(ctx context.Context, ln net.Listener, back string) error {
	open := func(ctx context.Context) (net.Conn, error) { return dial(ctx, back) }
	return eachPair(ctx, ln, open, func(_ context.Context, conn, other net.Conn) {
		there, in, out := newLink(other), bufio.NewReader(conn), bufio.NewWriter(conn)
		for passOn(in, there, out) == nil { // until either connection ends
		}
	})
}

// passOn passes one request on, and its answer back.
func passOn(in *bufio.Reader, there *link, out *bufio.Writer) error {
	r, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if err := there.send(newMessage(0).add(r.Method).add(r.URL.RequestURI()).addHeader(r.Header).add(string(body))); err != nil {
		return err
	}
	m, err := there.receive()
	if err != nil {
		return err
	}
	f := m.fields()
	answer := &http.Response{StatusCode: f.number(), ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
	f.header(answer.Header)
	text := f.next()
	if f.err != nil {
		return f.err
	}
	answer.ContentLength, answer.Body = int64(len(text)), io.NopCloser(strings.NewReader(text))
	if err := answer.Write(out); err != nil {
		return err
	}
	return out.Flush()
}

// backLean serves a connection of the front on one goroutine, and has a connection to the API server for it.
func backLean(ctx context.Context, ln net.Listener, api string, secure *tls.Config) error {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialLimit}, Config: secure}
	open := func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", api) }
	return eachPair(ctx, ln, open, func(_ context.Context, conn, other net.Conn) {
		here, in, out := newLink(conn), bufio.NewReader(other), bufio.NewWriter(other)
		for perform(here, api, in, out) == nil { // until either connection ends
		}
	})
}

// perform asks the API server what one message asks for.
func perform(here *link, api string, in *bufio.Reader, out *bufio.Writer) error {
	m, err := here.receive()
	if err != nil {
		return err
	}
	f := m.fields()
	method, uri, header := f.next(), f.next(), http.Header{}
	f.header(header)
	body := f.next()
	if f.err != nil {
		return f.err
	}
	request, err := http.NewRequest(method, "https://"+api+uri, bytes.NewReader([]byte(body))) //nolint:noctx // the connection has it
	if err != nil {
		return err
	}
	request.Header = header
	if err := request.Write(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	response, err := http.ReadResponse(in, request)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return here.send(message(binary.AppendUvarint(newMessage(0), uint64(response.StatusCode))).addHeader(response.Header).add(string(text)))
}
