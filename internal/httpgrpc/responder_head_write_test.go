package httpgrpc

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
)

// Written by hand or by generated code, a header is the same bytes.
func FuzzResponseHeaderMessage(f *testing.F) {
	f.Add(200, "200 OK", "Content-Type\napplication/json\nVia\na\n\nb")
	f.Add(0, "", "")
	f.Add(-1, "x", "lower\nv\nLower\nw")
	f.Add(500, "\xff", "A\nb")
	f.Add(204, "204", "A\n\xff\nB\n")
	f.Add(101, strings.Repeat("s", 200), "Long\n"+strings.Repeat("v", 20000)+"\nEmpty")
	f.Fuzz(func(t *testing.T, code int, text, lines string) {
		resp := &http.Response{StatusCode: code, Status: text, Header: http.Header{}}
		key := ""
		for i, line := range strings.Split(lines, "\n") {
			if i%2 == 0 {
				key = line
				resp.Header[key] = append(resp.Header[key], []string{}...)
			} else {
				resp.Header[key] = append(resp.Header[key], line)
			}
		}
		got, gotErr := responseHeaderMessage(resp)
		want, wantErr := generatedHeaderMessage(resp)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("got %v, want %v", gotErr, wantErr)
		}
		if diff := cmp.Diff(want.Materialize(), got.Materialize()); diff != "" {
			t.Error(diff)
		}
	})
}

// Requesters take the text of the status line for a string, and would see no answer at all.
func TestResponseHeaderMessage_StatusIsNoText(t *testing.T) {
	msg, err := responseHeaderMessage(&http.Response{StatusCode: 200, Status: "200 d\xe9j\xe0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, status, ok := strings.Cut(string(msg.Materialize()), "200 "); !ok || status != "d\uFFFDj\uFFFD" {
		t.Errorf("%q", msg.Materialize())
	}
}

func BenchmarkResponseHeaderMessage(b *testing.B) {
	resp := &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{
		"Content-Type": {"application/json"}, "Audit-Id": {"0c0c2f5c-6a36-4a4b-8d57-5ef0b6d1a5b5"}, "Cache-Control": {"no-cache, private"},
		"Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Content-Length": {"3500"}, "Via": {"1.1 agentk/v1/0"},
		"X-Kubernetes-Pf-Flowschema-Uid":    {"0c0c2f5c-6a36-4a4b-8d57-5ef0b6d1a5b5"},
		"X-Kubernetes-Pf-Prioritylevel-Uid": {"0c0c2f5c-6a36-4a4b-8d57-5ef0b6d1a5b5"},
	}}
	for name, write := range map[string]func(*http.Response) (mem.BufferSlice, error){"by hand": responseHeaderMessage, "generated": generatedHeaderMessage} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				msg, err := write(resp)
				if err != nil {
					b.Fatal(err)
				}
				msg.Free()
			}
		})
	}
}
