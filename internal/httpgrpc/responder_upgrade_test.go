package httpgrpc

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// startUpgrade starts a call whose upgrade is accepted; the returned connection is the cluster's end.
func startUpgrade(t *testing.T) (*fakeCall, net.Conn) {
	t.Helper()
	ours, cluster := net.Pipe()
	t.Cleanup(func() { _ = cluster.Close() })
	_ = cluster.SetDeadline(time.Now().Add(waitLimit))
	c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		if req.Body != http.NoBody {
			t.Errorf("body %T", req.Body)
		}
		return &http.Response{StatusCode: 101, Status: "101 Switching Protocols", Header: http.Header{
			"Upgrade": {"SPDY/3.1"}, "Connection": {"upgrade"},
		}, Body: ours}, nil
	})
	c.header("POST", "/exec", proto.Int64(0), "Upgrade", "SPDY/3.1", "Connection", "upgrade")
	c.trailer()
	if got := c.answer(); got.Code != 101 || !got.Trailer {
		t.Fatal(got)
	}
	return c, cluster
}

func (c *fakeCall) wantUpgradeData(want string) {
	c.t.Helper()
	got := ""
	for len(got) < len(want) {
		m := c.next()
		if m.GetUpgradeData() == nil {
			c.t.Fatalf("got %v", m)
		}
		got += string(m.GetUpgradeData().GetData())
	}
	if got != want {
		c.t.Fatalf("got %q", got)
	}
}

func wantRead(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != want {
		t.Fatalf("got %q, %v", buf, err)
	}
}

func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("cluster connection is not closed: %v", err)
	}
}

func TestResponder_Upgrade_ClusterCloses(t *testing.T) {
	c, cluster := startUpgrade(t)
	c.upgrade("to cluster")
	wantRead(t, cluster, "to cluster")
	if _, err := cluster.Write([]byte("from cluster")); err != nil {
		t.Fatal(err)
	}
	c.wantUpgradeData("from cluster")
	_ = cluster.Close()
	c.wantStatus(codes.OK, "") // without any half-close
}

// A 101 that does not say what it switches to leaves no connection; the requester must not be told that there is one.
func TestResponder_Upgrade_WithoutConnection(t *testing.T) {
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) { return response(101, ""), nil })
	c.header("POST", "/exec", proto.Int64(0), "Upgrade", "SPDY/3.1")
	c.trailer()
	c.wantStatus(codes.Unavailable, "gRPC -> HTTP: answer 101 without an upgrade")
}

func TestResponder_Upgrade_RequesterHalfCloses(t *testing.T) {
	c, cluster := startUpgrade(t)
	c.halfClose()
	wantClosed(t, cluster)
	c.wantStatus(codes.OK, "")
}

func TestResponder_Upgrade_RequesterAborts(t *testing.T) {
	c, cluster := startUpgrade(t)
	c.abort()
	wantClosed(t, cluster)
	c.wantStatus(codes.Canceled, "")
}

func TestResponder_Upgrade_RequesterBreaksOrder(t *testing.T) {
	c, cluster := startUpgrade(t)
	c.data("x")
	wantClosed(t, cluster)
	c.wantStatus(codes.InvalidArgument, "data after its trailer")
}

// The cluster reads nothing while the requester sends: its close ends the blocked write.
func TestResponder_Upgrade_ClusterClosesWithoutReading(t *testing.T) {
	c, cluster := startUpgrade(t)
	c.upgrade(strings.Repeat("x", 1<<16))
	_ = cluster.Close()
	c.wantStatus(codes.OK, "")
}

// CVE-2018-1002105: after a refused upgrade the call is over at once and what follows never reaches the cluster.
func TestResponder_CVE_2018_1002105_RefusedUpgrade(t *testing.T) {
	for name, halfClose := range map[string]bool{"requester silent": false, "requester half-closes": true} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) {
				resp := response(400, "no")
				resp.Body = &closeNotifier{Reader: resp.Body, closed: closed}
				return resp, nil
			})
			c.header("POST", "/exec", proto.Int64(0), "Upgrade", "websocket")
			c.trailer()
			if halfClose {
				c.halfClose()
			}
			if got := c.answer(); got.Code != 400 || got.Body != "no" || !got.Trailer {
				t.Error(got)
			}
			c.wantStatus(codes.OK, "")
			<-closed
			c.upgrade("GET /api/v1/secrets") // nobody receives it
		})
	}
}

type closeNotifier struct {
	io.Reader
	closed chan struct{}
}

func (c *closeNotifier) Close() error { close(c.closed); return nil }

func TestResponder_Upgrade_FailsBeforeAnyAnswer(t *testing.T) {
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) {
		return nil, errors.New("Kubernetes API server: connection refused")
	})
	c.header("POST", "/exec", proto.Int64(0), "Upgrade", "websocket")
	c.trailer()
	c.wantStatus(codes.Unavailable, "gRPC -> HTTP: Kubernetes API server: connection refused")
}

// A body in front of an upgrade ends at the trailer.
func TestResponder_Upgrade_WithBody(t *testing.T) {
	ours, cluster := net.Pipe()
	t.Cleanup(func() { _ = cluster.Close() })
	_ = cluster.SetDeadline(time.Now().Add(waitLimit))
	c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		if err != nil || string(body) != "body" {
			t.Errorf("%q %v", body, err)
		}
		return &http.Response{StatusCode: 101, Body: ours}, nil
	})
	c.header("POST", "/exec", proto.Int64(4), "Upgrade", "websocket")
	c.data("body")
	c.trailer()
	c.upgrade("raw")
	wantRead(t, cluster, "raw")
	_ = cluster.Close()
	if got := c.answer(); got.Code != 101 {
		t.Error(got)
	}
	c.wantStatus(codes.OK, "")
}

func TestResponder_UnasksedUpgrade(t *testing.T) {
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) {
		ours, cluster := net.Pipe()
		_ = cluster.Close()
		return &http.Response{StatusCode: 101, Body: ours}, nil
	})
	c.header("GET", "/", proto.Int64(0))
	c.trailer()
	c.halfClose()
	c.wantStatus(codes.Unavailable, "asked for no upgrade")
}
