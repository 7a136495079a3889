package gitaly

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	dns := func(host, port, server string) endpoint {
		return endpoint{host: host, port: port, server: server, resolve: true}
	}
	secure := func(e endpoint) endpoint { e.secure = true; return e }
	for text, want := range map[string]endpoint{
		"tcp://gitaly.example.com:8075":           {host: "gitaly.example.com", port: "8075"},
		"TCP://127.0.0.1:8075":                    {host: "127.0.0.1", port: "8075"},
		"tcp://[::1]:8075":                        {host: "::1", port: "8075"},
		"tls://gitaly.example.com:9999":           {host: "gitaly.example.com", port: "9999", secure: true},
		"unix:/var/opt/gitlab/gitaly.socket":      {socket: "/var/opt/gitlab/gitaly.socket"},
		"unix:///var/opt/gitlab/gitaly.socket":    {socket: "/var/opt/gitlab/gitaly.socket"},
		"unix:/with space/100%/a?b#c":             {socket: "/with space/100%/a?b#c"},
		"dns:gitaly":                              dns("gitaly", "443", ""),
		"dns:gitaly:8075":                         dns("gitaly", "8075", ""),
		"dns:///gitaly":                           dns("gitaly", "443", ""),
		"dns:///gitaly:8075":                      dns("gitaly", "8075", ""),
		"dns://10.0.0.2/gitaly:8075":              dns("gitaly", "8075", "10.0.0.2:53"),
		"dns://ns.example.com:5353/gitaly":        dns("gitaly", "443", "ns.example.com:5353"),
		"dns://[::1]:53/gitaly":                   dns("gitaly", "443", "[::1]:53"),
		"dns::8075":                               dns("localhost", "8075", ""),
		"dns:10.0.0.1":                            dns("10.0.0.1", "443", ""),
		"dns:::1":                                 dns("::1", "443", ""),
		"dns:[::1]:8075":                          dns("::1", "8075", ""),
		"dns:[::1]":                               dns("::1", "443", ""),
		"dns+tls:gitaly:8075":                     secure(dns("gitaly", "8075", "")),
		"dns+tls:///gitaly":                       secure(dns("gitaly", "443", "")),
		"dns+tls://10.0.0.2:5353/gitaly.internal": secure(dns("gitaly.internal", "443", "10.0.0.2:5353")),
	} {
		got, err := parseAddress(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParseAddress_Bad(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "no scheme",
		"gitaly":                        "no scheme",
		"gitaly:8075":                   "unknown scheme",
		"http://gitaly:8075":            "unknown scheme",
		"tcp:gitaly:8075":               "not a URL",
		"tcp://gitaly":                  "no port",
		"tcp://gitaly:":                 "no port",
		"tcp://:8075":                   "no host",
		"tcp://":                        "no host",
		"tcp://gitaly:8075/":            "without a path",
		"tcp://gitaly:8075/a":           "without a path",
		"tcp://gitaly:8075?a":           "without a path",
		"tcp://gitaly:8075#a":           "without a path",
		"tcp://gitaly:0":                "between 1 and 65535",
		"tcp://gitaly:65536":            "between 1 and 65535",
		"tcp://gitaly:x":                "not a URL",
		"tcp://a b:1":                   "not a URL",
		"tls://user:hunter2@gitaly:1":   "user name or password",
		"tls://gitaly":                  "no port",
		"unix:":                         "absolute path",
		"unix:relative":                 "absolute path",
		"unix://":                       "no usable path",
		"unix:/a\x00b":                  "no usable path",
		"dns:":                          "no host",
		"dns:///":                       "no host",
		"dns://gitaly":                  "only a name server",
		"dns:gitaly:":                   "port is missing",
		"dns:gitaly:x":                  "between 1 and 65535",
		"dns://ns:/gitaly":              "port is missing",
		"dns://ns:x/gitaly":             "between 1 and 65535",
		"dns:a:b:c":                     "told apart",
		"dns:///a/b":                    "not of the form",
		"dns:///user:hunter2@gitaly":    "not of the form",
		"dns+tls://user:hunter2@ns/git": "not of the form",
	} {
		_, err := parseAddress(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
