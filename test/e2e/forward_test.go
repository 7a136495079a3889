//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"testing"

	"golang.org/x/sync/errgroup"

	"gitlab.com/agentk/agentk/test/line"
)

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> 9001`)

func TestPortForward(t *testing.T) {
	const size = 100 << 20
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		cmd := j.kubectl(soon(t), t, "port-forward", "pod/web", "--address=127.0.0.1", ":9001")
		var stdout transcript
		cmd.Stdout = &stdout
		p := begin(t, cmd)
		var address string
		line.Eventually(soon(t), t, "kubectl port-forward", func(context.Context) error {
			match := forwarding.FindStringSubmatch(stdout.String())
			if match == nil {
				return fmt.Errorf("not forwarding yet: %q %q", &stdout, &p.stderr)
			}
			address = match[1]
			return nil
		})
		// Both directions at the same time, on two connections.
		var both errgroup.Group
		both.Go(func() error { return upload(soon(t), address, size) })
		both.Go(func() error { return download(soon(t), address, size) })
		if err := both.Wait(); err != nil {
			t.Errorf("%v; standard error of kubectl: %s", err, &p.stderr)
		}
		// The same connection again, after others have come and gone.
		if err := errors.Join(upload(soon(t), address, 5), download(soon(t), address, 5)); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
	})
}

// upload sends bytes to the transfer service of a Pod, which answers with their sum.
func upload(ctx context.Context, address string, size int64) error {
	conn, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	want := sha256.New()
	out := bufio.NewWriterSize(conn, 64<<10)
	fmt.Fprintf(out, "put %d\n", size)
	if _, err := io.CopyN(io.MultiWriter(out, want), &counting{}, size); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("put: answer: %w", err)
	}
	if want := fmt.Sprintf("%x\n", want.Sum(nil)); got != want {
		return fmt.Errorf("put: sum %s, want %s", got, want)
	}
	return nil
}

// download gets bytes from the transfer service of a Pod.
func download(ctx context.Context, address string, size int64) error {
	conn, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "get %d\n", size); err != nil {
		return fmt.Errorf("get: %w", err)
	}
	got, want := sha256.New(), sha256.New()
	if n, err := io.CopyN(got, conn, size); err != nil {
		return fmt.Errorf("get: after %d bytes: %w", n, err)
	}
	if _, err := io.CopyN(want, &counting{}, size); err != nil {
		return err
	}
	if got, want := got.Sum(nil), want.Sum(nil); string(got) != string(want) {
		return fmt.Errorf("get: sum %x, want %x", got, want)
	}
	return nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		return conn, conn.SetDeadline(deadline)
	}
	return conn, nil
}

// counting is what the transfer service sends: byte i is i modulo 251.
type counting struct{ next int }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.next)
		c.next = (c.next + 1) % 251
	}
	return len(p), nil
}
