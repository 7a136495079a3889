package httpgrpc

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// silent is the body of an HTTP/2 answer: a read of nothing waits for data.
type silent struct {
	chunks chan string
	now    string
}

func (b *silent) Read(p []byte) (int, error) {
	if b.now == "" {
		if len(p) > 0 {
			return 0, errors.New("a buffer is held while nothing comes")
		}
		var ok bool
		if b.now, ok = <-b.chunks; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, b.now)
	b.now = b.now[n:]
	return n, nil
}

func (*silent) Close() error { return nil }

func TestResponder_SilentAnswer(t *testing.T) {
	body := &silent{chunks: make(chan string)}
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ProtoMajor: 2, ContentLength: -1, Body: body}, nil
	})
	c.header("GET", "/pods", proto.Int64(0))
	c.trailer()
	c.halfClose()
	if c.next() == nil {
		t.Fatal("no header")
	}
	for _, chunk := range []string{"one event", "another"} {
		body.chunks <- chunk
		if got := string(c.next().GetData().GetData()); got != chunk {
			t.Errorf("got %q, want %q", got, chunk)
		}
	}
	close(body.chunks)
	rest := c.answer()
	if err := c.status().Err(); !rest.Trailer || err != nil {
		t.Errorf("%+v, %v", rest, err)
	}
}
