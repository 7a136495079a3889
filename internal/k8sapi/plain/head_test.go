package plain

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seen is a request as a server reads it.
type seen struct {
	Method, URI, Host string
	Header            http.Header
	Length            int64
}

func read(t *testing.T, head []byte) seen {
	t.Helper()
	in := bufio.NewReader(bytes.NewReader(head))
	r, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("%v: %q", err, head)
	}
	if in.Buffered() > 0 {
		t.Errorf("%d bytes follow the head", in.Buffered())
	}
	return seen{r.Method, r.RequestURI, r.Host, r.Header, r.ContentLength}
}

// A server reads what http.Request.Write would have told it.
func FuzzAppendHead(f *testing.F) {
	f.Add("GET", "/api/v1/pods", "limit=500", "Accept", "application/json", "kubectl")
	f.Add("", "", "", "X", " \ttrimmed\t ", "")
	f.Add("POST", "/a b%2F", "x=y z", "Content-Length", "5", "x")
	f.Add("DELETE", "//host/x", "", "Host", "other", "\x00")
	f.Add("G T", "/", "", "bad name", "a\r\nb: c", "a\nb")
	f.Add("PUT", "/\x7f", "\n", "Transfer-Encoding", "chunked", "ä")
	f.Fuzz(func(t *testing.T, method, path, query, name, value, agent string) {
		req := &http.Request{
			Method: method, URL: &url.URL{Scheme: "https", Host: "a.test:6443", Path: path, RawQuery: query},
			Header: http.Header{name: {value, "second"}, "User-Agent": {agent, "not said"}}, Body: http.NoBody,
		}
		got, err := appendHead(nil, req, "a.test:6443")
		if err != nil {
			if strings.Contains(err.Error(), value) && len(value) > 8 {
				t.Error("the error tells a value")
			}
			return
		}
		want := &bytes.Buffer{}
		if err := req.Write(want); err != nil {
			t.Fatalf("net/http refuses: %v", err)
		}
		if strings.Contains(query, " ") || len(path) > 0 && path[0] != '/' {
			return // net/http writes what no server reads
		}
		if diff := cmp.Diff(read(t, want.Bytes()), read(t, got)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAppendHead_Refuses(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"method":  func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\n" },
		"query":   func(r *http.Request) { r.URL.RawQuery = "a\r\nX: y" },
		"name":    func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"secret"} },
		"no name": func(r *http.Request) { r.Header[""] = []string{"secret"} },
		"value":   func(r *http.Request) { r.Header["X"] = []string{"secret\r\nImpersonate-User: admin"} },
		"nul":     func(r *http.Request) { r.Header["X"] = []string{"secret\x00"} },
		"agent":   func(r *http.Request) { r.Header["User-Agent"] = []string{"secret\nX: y"} },
	} {
		req, err := http.NewRequest(http.MethodGet, "https://a.test/x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		head, err := appendHead(nil, req, "a.test")
		if err == nil {
			t.Errorf("%s: %q", name, head)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells a value", name)
		}
	}
}

// Without a User-Agent net/http names itself, with an empty one nobody.
func TestAppendHead_UserAgent(t *testing.T) {
	for _, header := range []http.Header{{}, {"User-Agent": nil}, {"User-Agent": {""}}, {"User-Agent": {"x"}}} {
		req := &http.Request{URL: &url.URL{Scheme: "https", Host: "a.test", Path: "/"}, Header: header}
		got, err := appendHead(nil, req, "a.test")
		if err != nil {
			t.Fatal(err)
		}
		want := &bytes.Buffer{}
		if err := req.Write(want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(read(t, want.Bytes()), read(t, got)); diff != "" {
			t.Error(diff)
		}
	}
}
