package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
)

const (
	// moved is how many bytes one measurement of an upgraded connection moves, in a minute at most.
	moved      = 100_000_000
	movedLimit = time.Minute
	// movedTimes is how often a sample moves them at most.
	movedTimes = 5

	execPath    = "/api/v1/namespaces/default/pods/p/exec?command=cat&container=c&stdin=true"
	forwardPath = "/api/v1/namespaces/default/pods/p/portforward"
)

// sessions is what "kubectl exec -i" and "kubectl port-forward" take to send 100 MB, with the client that kubectl is made of and the
// protocols that it speaks, WebSocket and SPDY in WebSocket.
func sessions(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, of := range []struct {
		name string
		move func(target, context.Context) (float64, error)
	}{{"exec_stdin_100mb", target.exec}, {"portforward_100mb", target.forward}} {
		through := repeat(s.fakeLine, of.move)
		direct, line, err := alternate(ctx, st.effort, repeat(s.fakeDirect, of.move), through)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", of.name, err)
		}
		rows = append(rows, figure(of.name, "s", direct, line, most(ratio, 1.3)))
		err = st.profile(ctx, s, s.fakeAgent, of.name, func(ctx context.Context, d time.Duration) error {
			_, err := through(ctx, d)
			return err
		})
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// repeat makes a sample of a few moves: their median.
func repeat(t target, move func(target, context.Context) (float64, error)) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		var took []float64
		for end := time.Now().Add(d); len(took) == 0 || len(took) < movedTimes && time.Now().Before(end); {
			one, err := move(t, ctx)
			if err != nil {
				return 0, err
			}
			took = append(took, one)
		}
		return median(took), nil
	}
}

// config is how kubectl's parts reach the target.
func (t target) config() *rest.Config {
	return &rest.Config{
		Host: t.base, TLSClientConfig: rest.TLSClientConfig{CAFile: t.authority},
		WrapTransport: func(next http.RoundTripper) http.RoundTripper { return withHeader{next, t.header} },
	}
}

// withHeader adds a header to every request.
type withHeader struct {
	next   http.RoundTripper
	header http.Header
}

func (h withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range h.header {
		r.Header[name] = values
	}
	return h.next.RoundTrip(r)
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// exec sends bytes into a command's standard input and returns the seconds until the command has ended.
func (t target) exec(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, movedLimit)
	defer cancel()
	executor, err := remotecommand.NewWebSocketExecutor(t.config(), http.MethodGet, t.base+execPath)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: io.LimitReader(zeros{}, moved)})
	return time.Since(begun).Seconds(), err
}

// forward sends bytes into a forwarded port and returns the seconds until the other end has closed.
func (t target) forward(ctx context.Context) (float64, error) {
	u, err := url.Parse(t.base + forwardPath)
	if err != nil {
		return 0, err
	}
	dialer, err := portforward.NewSPDYOverWebsocketDialer(u, t.config())
	if err != nil {
		return 0, err
	}
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.New(dialer, []string{"0:80"}, stop, ready, nil, nil)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	took, err := func() (float64, error) {
		ports, err := forwarder.GetPorts()
		if err != nil {
			return 0, err
		}
		err = send(fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		return time.Since(begun).Seconds(), err
	}()
	close(stop)
	return took, errors.Join(err, <-ended)
}

// send writes the bytes to a port and waits until the other end has closed.
func send(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(movedLimit)); err != nil {
		return err
	}
	if _, err := io.Copy(conn, io.LimitReader(zeros{}, moved)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && string(answer) != received {
		err = fmt.Errorf("the other end of the port received %q, not %s", answer, received)
	}
	return err
}
