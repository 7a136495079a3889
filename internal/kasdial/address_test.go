package kasdial

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	good := map[string]string{
		"grpc://kas.example.com":                     "kas.example.com:80",
		"grpcs://kas.example.com":                    "kas.example.com:443",
		"ws://kas.example.com":                       "kas.example.com:80",
		"wss://kas.example.com/-/kubernetes-agent/":  "kas.example.com:443",
		"WSS://kas.example.com:8443/x":               "kas.example.com:8443",
		"grpc://[::1]:8150":                          "[::1]:8150",
		"grpcs://[2001:db8::1]":                      "[2001:db8::1]:443",
		"grpc://127.0.0.1:8150/":                     "127.0.0.1:8150",
		"wss://kas.example.com/-/kubernetes-agent?a": "kas.example.com:443",
	}
	for address, want := range good {
		u, err := parseAddress(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := hostPort(u); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	bad := map[string]string{
		"":                             "empty",
		"kas.example.com":              "no scheme",
		"kas.example.com:443":          "no scheme",
		"https://kas.example.com":      `unknown scheme "https"`,
		"wss://":                       "no host",
		"wss:///path":                  "no host",
		"wss://:443/":                  "no host",
		"wss://user:hunter2@kas/":      "user name or password",
		"wss://kas.example.com/#x":     "fragment",
		"wss://kas.example.com:0/":     "between 1 and 65535",
		"wss://kas.example.com:65536/": "between 1 and 65535",
		"wss://kas.example.com:x/":     "not a URL",
		"wss://kas example.com/":       "not a URL",
		"://kas":                       "not a URL",
	}
	for address, want := range bad {
		_, err := parseAddress(address)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want %q", address, err, want)
		}
	}
}

func TestNew_Bad(t *testing.T) {
	dir := t.TempDir()
	noCert := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(noCert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := func() string { return "t" }
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"address":         {Config{Address: "kas", TokenSource: token}, "no scheme"},
		"token":           {Config{Address: "ws://kas"}, "no token source"},
		"CA missing":      {Config{Address: "wss://kas", TokenSource: token, CAFile: filepath.Join(dir, "no.pem")}, "no.pem"},
		"CA empty":        {Config{Address: "wss://kas", TokenSource: token, CAFile: noCert}, "holds no PEM certificate"},
		"header name":     {Config{Address: "ws://kas", TokenSource: token, Header: http.Header{"a b": {"c"}}}, "no valid name"},
		"header value":    {Config{Address: "ws://kas", TokenSource: token, Header: http.Header{"A": {"s3cret\n"}}}, "value of header A"},
		"upgrade header":  {Config{Address: "ws://kas", TokenSource: token, Header: http.Header{"Upgrade": {"x"}}}, "set by the agent itself"},
		"grpc header":     {Config{Address: "grpc://kas", TokenSource: token, Header: http.Header{"Authorization": {"x"}}}, "set by the agent itself"},
		"subprotocol":     {Config{Address: "ws://kas", TokenSource: token, Header: http.Header{"Sec-Websocket-Protocol": {"x"}}}, "set by the agent itself"},
		"reserved prefix": {Config{Address: "grpc://kas", TokenSource: token, Header: http.Header{"Grpc-Timeout": {"x"}}}, "set by the agent itself"},
	} {
		c, err := New(test.cfg)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
