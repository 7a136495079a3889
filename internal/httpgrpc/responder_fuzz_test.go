package httpgrpc

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/anypb"
)

// frameList is a call whose frames are known; what is sent to it is dropped.
type frameList struct{ frames []mem.BufferSlice }

func (l *frameList) Recv() (mem.BufferSlice, error) {
	if len(l.frames) == 0 {
		return nil, io.EOF
	}
	next := l.frames[0]
	l.frames = l.frames[1:]
	return next, nil
}

func (l *frameList) Ahead() {}

func (l *frameList) Send(m mem.BufferSlice) error { m.Free(); return nil }

// switching is a connection that ends at once.
type switching struct{ io.Reader }

func (switching) Write(p []byte) (int, error) { return len(p), nil }
func (switching) Close() error                { return nil }

// CVE-2024-5469: whatever frames a requester sends, the call ends and nothing panics. Frames are cut out of the input by a length
// byte each.
func FuzzResponder_CVE_2024_5469(f *testing.F) {
	frames := func(list ...string) []byte {
		var b []byte
		for _, s := range list {
			b = append(append(b, byte(len(s))), s...)
		}
		return b
	}
	const header = "\x0a\x0d\x0a\x09\x0a\x04POST\x1a\x01/\x18\x04"
	f.Add(frames(header, "\x12\x06\x0a\x04body", "\x1a\x00"))
	f.Add(frames("\x0a\x1d\x0a\x19\x0a\x03GET\x12\x0f\x0a\x07Upgrade\x12\x04\x0a\x02h2\x1a\x01/\x18\x00", "\x1a\x00", "\x22\x03\x0a\x01x"))
	f.Add(frames("", "\x1a\x00", header, header))
	r, err := NewResponder(ResponderConfig{Performer: performerFunc(func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return nil, err
		}
		if len(UpgradeOf(req.Header)) > 0 {
			return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: switching{strings.NewReader("x")}}, nil
		}
		return response(http.StatusOK, "ok"), nil
	})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, input []byte) {
		var list frameList
		for len(input) > 0 {
			n := min(int(input[0]), len(input)-1)
			list.frames = append(list.frames, mem.BufferSlice{mem.SliceBuffer(input[1 : 1+n])})
			input = input[1+n:]
		}
		_ = r.Serve(context.Background(), &list)
	})
}
