package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// moved is how many bytes one measurement of an upgraded connection moves, in a minute at most.
	moved      = 100_000_000
	movedLimit = time.Minute
	// movedTimes is how often a sample moves them at most.
	movedTimes = 5

	// The Pod that takes the bytes. The fake API server does not look at names.
	podPath     = "/api/v1/namespaces/default/pods/sink"
	forwardPath = podPath + "/portforward"
	sinkPort    = 7000
)

// execPath is an exec of what the program of the Pod can do (sink).
func execPath(what string) string {
	return podPath + "/exec?command=/sink&command=" + what + "&container=sink&stdin=true&stdout=true"
}

// received is what the other end answers when it has all bytes.
var received = strconv.Itoa(moved)

// fakeSessions is what the line itself costs those who move bytes through upgraded connections.
func fakeSessions(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	return st.sessions(ctx, way{s.fakeDirect, s.fakeLine, s.l, s.fakeAgent}, "_fake", goal{})
}

// way is both sides of a comparison, and the line and the agent that one of them leads through.
type way struct {
	direct, through target
	l               *line.Line
	agent           string
}

// sessions is what "kubectl exec -i" and "kubectl port-forward" take to send 100 MB, with the client that kubectl is made of and the
// protocols that it speaks, WebSocket and SPDY in WebSocket.
func (st *stage) sessions(ctx context.Context, w way, suffix string, g goal) ([]row, error) {
	e := st.effort
	if e.quick {
		e.each /= 2 // one is a sample by itself
	}
	var rows []row
	for _, of := range []struct {
		name string
		move func(target, context.Context) (float64, error)
	}{{"exec_stdin_100mb" + suffix, target.exec}, {"portforward_100mb" + suffix, target.forward}} {
		through := repeat(w.through, of.move)
		direct, line, err := alternate(ctx, e, repeat(w.direct, of.move), through)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", of.name, err)
		}
		rows = append(rows, figure(of.name, "s", direct, line, g))
		err = st.profile(ctx, w.l, w.agent, of.name, func(ctx context.Context, d time.Duration) error {
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
	executor, err := remotecommand.NewWebSocketExecutor(t.config(), http.MethodGet, t.base+execPath("stdin"))
	if err != nil {
		return 0, err
	}
	var answer bytes.Buffer
	begun := time.Now()
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: io.LimitReader(zeros{}, moved), Stdout: &answer})
	took := time.Since(begun).Seconds()
	if err == nil && answer.String() != received {
		err = fmt.Errorf("the command received %q, not %s", &answer, received)
	}
	return took, err
}

// forward sends bytes into a forwarded port and returns the seconds until the other end has said that it has them.
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
	forwarder, err := portforward.New(dialer, []string{fmt.Sprintf("0:%d", sinkPort)}, stop, ready, nil, nil)
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

// send writes the bytes to a port and waits until the other end has said how many it has.
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
	// Not to the end: who passes a port on may take a second to notice that one side has closed.
	answer := make([]byte, len(received))
	if n, err := io.ReadFull(conn, answer); err != nil || string(answer) != received {
		return fmt.Errorf("the other end of the port received %q, not %s: %v", answer[:n], received, err)
	}
	return nil
}
