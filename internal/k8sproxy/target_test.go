package k8sproxy

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func proxyWithPrefix(prefix string) *Proxy {
	return &Proxy{prefix: prefix, escapedPrefix: (&url.URL{Path: prefix}).EscapedPath()}
}

func TestTarget(t *testing.T) {
	p := proxyWithPrefix("/k8s-proxy/")
	tests := []struct {
		uri, path, escaped string
	}{
		{"/k8s-proxy/", "/", ""},
		{"/k8s-proxy/api/v1", "/api/v1", ""},
		{"/k8s-proxy//api", "//api", ""},
		{"/k8s-proxy/a%20b", "/a b", ""},
		{"/k8s-proxy/a%3Ab", "/a:b", ""},
		{"/k8s-proxy/%41", "/A", ""},
		{"/k8s-proxy/../x", "/../x", ""},
		{"/k8s-proxy/a;b", "/a;b", ""},
		{"http://evil.test/k8s-proxy/api", "/api", ""},
		{"/k8s-proxy/a%2Fb", "/a/b", "/a%2Fb"},
		{"/k8s-proxy/a%2fb", "/a/b", "/a%2fb"},
		{"/k8s-proxy/%2e%2e/x", "/../x", "/%2e%2e/x"},
		{"/k8s-proxy/.%2e/x", "/../x", "/.%2e/x"},
		{"/k8s-proxy/%2E", "/.", "/%2E"},
		{"/k8s-proxy/%2F", "//", "/%2F"},
		{"/k8s-proxy/a%252Fb", "/a%2Fb", ""},
	}
	for _, tt := range tests {
		t.Run(tt.uri, func(t *testing.T) {
			u, err := url.ParseRequestURI(tt.uri)
			if err != nil {
				t.Fatal(err)
			}
			got, why := p.targetOf(u)
			if why != nil || got.path != tt.path || got.escaped != tt.escaped {
				t.Errorf("%+v, %+v", got, why)
			}
		})
	}
}

func TestTarget_Refused(t *testing.T) {
	p := proxyWithPrefix("/k8s-proxy/")
	for uri, want := range map[string]string{
		"/":                             "prefix",
		"/k8s-proxy":                    "prefix",
		"/k8s%2Dproxy/api":              "prefix",
		"/k8s-proxy%2Fapi":              "prefix",
		"/k8s-proxy/a?a;b=c":            "query",
		"/k8s-proxy/a?x=1&a=%zz":        "query",
		"/k8s-proxy/%ff":                "UTF-8",
		"/k8s-proxy/a?x=%ff":            "UTF-8",
		"/k8s-proxy/a?%ff=x":            "UTF-8",
		"http://evil.test/x/k8s-proxy/": "prefix",
	} {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got, why := p.targetOf(u); why == nil || why.code != 400 || !strings.Contains(why.msg, want) {
			t.Errorf("%s: %+v, %+v", uri, got, why)
		}
	}
}

// Whatever the path: an agent that only gets the decoded form resolves it to the same segments.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/k8s-proxy/api", "/k8s-proxy/a%2Fb", "/k8s-proxy/%2e%2e", "/k8s-proxy//%2F/", "/k8s-proxy/%252F?x=1", "http://h/k8s-proxy/a"} {
		f.Add(seed)
	}
	p := proxyWithPrefix("/k8s-proxy/")
	f.Fuzz(func(t *testing.T, uri string) {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			return
		}
		got, why := p.targetOf(u)
		if why != nil {
			return
		}
		if !strings.HasPrefix(got.path, "/") || !utf8.ValidString(got.path) {
			t.Fatalf("path %q", got.path)
		}
		if got.escaped != "" {
			if decoded, err := url.PathUnescape(got.escaped); err != nil || decoded != got.path {
				t.Fatalf("%q and %q", got.escaped, got.path)
			}
			return
		}
		raw := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/k8s-proxy"), "/")
		again := strings.Split((&url.URL{Path: got.path}).EscapedPath(), "/")
		if len(raw) != len(again) {
			t.Fatalf("%q has other segments than %q", raw, again)
		}
		for i := range raw {
			a, _ := url.PathUnescape(raw[i])
			b, _ := url.PathUnescape(again[i])
			if a != b {
				t.Fatalf("%q has other segments than %q", raw, again)
			}
		}
	})
}
