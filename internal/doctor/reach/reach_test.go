package reach

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tlsServer shows a certificate that is valid for a time, and returns a target that trusts it.
func tlsServer(t *testing.T, from, until time.Time, change func(*tls.Config)) Target {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = discard()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return Target{Name: "server", URL: u, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
}

func TestHandshake(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		from, until time.Time
		change      func(*tls.Config)
		status      doctor.Status
		cause       string
	}{
		"well":          {now.Add(-time.Hour), now.Add(60 * 24 * time.Hour), nil, doctor.OK, ""},
		"expires soon":  {now.Add(-time.Hour), now.Add(time.Hour), nil, doctor.Warn, "certificate-expiring"},
		"expired":       {now.Add(-2 * time.Hour), now.Add(-time.Hour), nil, doctor.Fail, "certificate-expired"},
		"not yet valid": {now.Add(time.Hour), now.Add(2 * time.Hour), nil, doctor.Fail, "certificate-expired"},
		"old versions only": {
			now.Add(-time.Hour), now.Add(60 * 24 * time.Hour),
			func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, doctor.Fail, "tls-failed",
		},
	} {
		o := tlsServer(t, c.from, c.until, c.change).Handshake(t.Context())
		if o.Status != c.status || o.Cause != c.cause {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// TestSilent has a server that accepts connections and says nothing.
func TestSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"https", "http"} {
		target := Target{Name: "server", URL: &url.URL{Scheme: scheme, Host: l.Addr().String()}}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		o := target.Handshake(ctx)
		if scheme == "http" {
			_, o = target.Get(ctx, target.URL, nil)
		}
		cancel()
		if o.Cause != "too-slow" {
			t.Errorf("%s: %+v", scheme, o)
		}
	}
}

// TestHangsUp has a server that closes every connection.
func TestHangsUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	defer func() {
		_ = l.Close()
		<-done
	}()
	target := Target{Name: "server", URL: &url.URL{Scheme: "https", Host: l.Addr().String()}}
	if o := target.Handshake(t.Context()); o.Cause != "hung-up" {
		t.Errorf("%+v", o)
	}
}

func TestGet_Clock(t *testing.T) {
	ahead := 5 * time.Minute
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	a, o := Target{Name: "server", URL: u}.Get(t.Context(), u, nil)
	if a == nil || !a.Dated || (a.Offset-ahead).Abs() > 10*time.Second {
		t.Errorf("%+v %+v", a, o)
	}
	if got := Ahead(-90 * time.Second); got != "1m30s behind" {
		t.Error(got)
	}
	if _, dated := offset("yesterday", time.Now(), time.Now()); dated {
		t.Error("a Date that is none counts")
	}
}

// TestFront_Redirect shows where it leads, but no query, which may hold anything.
func TestFront_Redirect(t *testing.T) {
	target := Target{Name: "kas", URL: &url.URL{Scheme: "wss", Host: "kas.test", Path: "/a"}}
	o, foreign := target.Front(&Answer{Code: 302, Header: http.Header{"Location": {"https://login.test/x?canary"}}})
	if !foreign || o.Cause != "redirect" || !strings.Contains(o.What, "https://login.test/x") || strings.Contains(o.What, "canary") {
		t.Errorf("%+v", o)
	}
	if _, foreign := target.Front(&Answer{Code: 426, Header: http.Header{}}); foreign {
		t.Error("426 is what kas answers")
	}
}

func TestProxyVariable(t *testing.T) {
	for text, want := range map[string]bool{"http://p:3128": true, "p:3128": true, "socks5://p": true, "http://a:canary%zz@p": false, "://": false} {
		if got := isProxy(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// TestForwarded has a proxy that takes requests and opens no connections, as for plain HTTP.
func TestForwarded(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect || r.URL.Host != "gitlab.test" {
			http.Error(w, "no", http.StatusMethodNotAllowed)
			return
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	target := Target{Name: "GitLab", URL: &url.URL{Scheme: "http", Host: "gitlab.test"}}
	if o := target.Connect(t.Context()); o.Status != doctor.OK {
		t.Errorf("connect: %+v", o)
	}
	if a, o := target.Get(t.Context(), target.URL, nil); a == nil || a.Code != http.StatusTeapot {
		t.Errorf("get: %+v %+v", a, o)
	}
	target.URL = &url.URL{Scheme: "https", Host: "gitlab.test"}
	if o := target.Connect(t.Context()); o.Cause != "proxy-refused" {
		t.Errorf("with TLS: %+v", o)
	}
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }
