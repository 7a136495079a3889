package httpgrpc

import (
	"context"
	"io"
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
)

// endless is a body that gives one event and then nothing until its request ends.
type endless struct {
	ctx  context.Context
	told bool
}

func (b *endless) Read(p []byte) (int, error) {
	if !b.told {
		b.told = true
		return copy(p, "event"), nil
	}
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (*endless) Close() error { return nil }

// An agent that stops ends watches in order, and nothing else: other answers would look complete.
func TestResponder_AgentStops(t *testing.T) {
	for name, tc := range map[string]struct {
		method, watch string
		clean         bool
	}{
		"watch":          {"GET", "true", true},
		"watch as one":   {"GET", "1", true},
		"no watch":       {"GET", "false", false},
		"list":           {"GET", "", false},
		"something else": {"GET", "maybe", true}, // as API servers read it
		"not a GET":      {"DELETE", "true", false},
	} {
		t.Run(name, func(t *testing.T) {
			stopping, stop := context.WithCancelCause(context.Background())
			c := startCallWith(t, stopping, func(r *http.Request, _ *anypb.Any) (*http.Response, error) {
				return &http.Response{StatusCode: 200, ContentLength: -1, Body: &endless{ctx: r.Context()}}, nil
			})
			request := &prototool.HttpRequest{Method: tc.method, UrlPath: "/pods"}
			if tc.watch != "" {
				request.Query = []*prototool.KeyValues{{Key: []byte("watch"), Value: &prototool.Values{Value: [][]byte{[]byte(tc.watch)}}}}
			}
			c.send(marshal(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
				Request: request, ContentLength: proto.Int64(0),
			}}}))
			c.trailer()
			c.halfClose()
			for _, want := range []string{"header", "event"} {
				if c.next() == nil {
					t.Fatalf("no %s", want)
				}
			}
			stop(ErrStopping)
			rest, code := c.answer(), c.status().Code()
			if rest.Trailer != tc.clean || (code == codes.OK) != tc.clean || !tc.clean && code != codes.Unavailable {
				t.Errorf("%+v, %v; want a clean end: %v", rest, code, tc.clean)
			}
		})
	}
}

// A client that goes away during a watch cancels the request at the cluster.
func TestResponder_ClientGoneDuringWatch(t *testing.T) {
	c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		r, w := io.Pipe()
		context.AfterFunc(req.Context(), func() { _ = w.CloseWithError(context.Cause(req.Context())) })
		return &http.Response{StatusCode: 200, Body: r, ContentLength: -1}, nil
	})
	c.header("GET", "/", proto.Int64(0))
	c.trailer()
	c.halfClose()
	if m := c.next(); m.GetHeader() == nil {
		t.Fatal(m)
	}
	c.abort()
	c.wantStatus(codes.Canceled, "context canceled")
}
