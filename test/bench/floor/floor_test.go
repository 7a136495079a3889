package floor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = time.Minute

// start runs one part until the test ends, and returns where it listens.
func start(t *testing.T, args ...string) string {
	t.Helper()
	serve, err := part(args)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
	})
	return ln.Addr().String()
}

// files writes the certificate and the key of a test server.
func files(t *testing.T, server *httptest.Server) (certificate, key string) {
	t.Helper()
	pair := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// api says what it was asked.
func api(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header()["X-Twice"] = r.Header["X-Twice"]
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(body))
	}))
	t.Cleanup(server.Close)
	return server
}

// impatient is a client that trusts a server's certificate.
func impatient(server *httptest.Server) *http.Client {
	return &http.Client{Transport: server.Client().Transport.(*http.Transport).Clone(), Timeout: patience}
}

func host(server *httptest.Server) string { return strings.TrimPrefix(server.URL, "https://") }

// TestLine_CarriesRequests asks through each form, many at once: each gets its own answer, whole.
func TestLine_CarriesRequests(t *testing.T) {
	server := api(t)
	certificate, key := files(t, server)
	for name, address := range map[string]string{
		"requests": start(t, Front, Requests, start(t, Back, Requests, host(server), certificate), certificate, key),
		"relayed":  start(t, Front, Requests, start(t, Relay, start(t, Back, Requests, host(server), certificate)), certificate, key),
		"lean":     start(t, Front, Lean, start(t, Back, Lean, host(server), certificate), certificate, key),
		"pipe":     start(t, Front, Pipe, start(t, Back, Pipe, host(server), certificate), certificate, key),
	} {
		client := impatient(server)
		var asking sync.WaitGroup
		for i := range 20 {
			asking.Go(func() { ask(t, client, name, "https://"+address, i) })
		}
		asking.Wait()
		client.CloseIdleConnections()
	}
}

func ask(t *testing.T, client *http.Client, name, base string, i int) {
	body := strings.Repeat("x", 100_000*(i%2)) + strconv.Itoa(i)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/a%2Fb?n="+strconv.Itoa(i), strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	request.Header["X-Twice"] = []string{"1", "2"}
	response, err := client.Do(request)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	got, err := io.ReadAll(response.Body)
	if want := "PUT /a%2Fb?n=" + strconv.Itoa(i) + " " + body; err != nil || string(got) != want {
		t.Errorf("%s: %d bytes instead of %d, %v", name, len(got), len(want), err)
	}
	if response.StatusCode != http.StatusTeapot || strings.Join(response.Header["X-Twice"], " ") != "1 2" {
		t.Errorf("%s: %s with header %v", name, response.Status, response.Header)
	}
}

func TestRequests_NobodyThere(t *testing.T) {
	server := api(t)
	certificate, key := files(t, server)
	gone, client := host(server), impatient(server)
	server.Close()
	response, err := client.Get("https://" + start(t, Front, Requests, start(t, Back, Requests, gone, certificate), certificate, key))
	if err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	if _ = response.Body.Close(); response.StatusCode != http.StatusBadGateway {
		t.Errorf("answered %s", response.Status)
	}
}

func TestPart_Refuses(t *testing.T) {
	certificate, key := files(t, api(t))
	none := filepath.Join(t.TempDir(), "none")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{},
		{Front},
		{Front, Pipe, "a:1", none},
		{Front, Pipe, "a:1", none, none},
		{Front, "other", "a:1", certificate, key},
		{Relay},
		{Back, Pipe, "a:1"},
		{Back, "other", "a:1", empty},
		{Back, Pipe, "a:1", none},
		{Back, Pipe, "a:1", empty},
	} {
		if _, err := part(args); err == nil {
			t.Errorf("%q is a part", args)
		}
	}
	if err := Run(t.Context(), []string{"no"}); err == nil {
		t.Error("no part runs")
	}
}

// TestFields_Broken reads what does not hold what it says: an error, and no more than there is.
func TestFields_Broken(t *testing.T) {
	for name, m := range map[string]message{
		"nothing":              newMessage(1),
		"a length without end": append(newMessage(1), 0x80, 0x80),
		"a length too much":    append(newMessage(1), 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"a field too short":    append(newMessage(1), 5, 'x'),
	} {
		f, header := m.fields(), http.Header{}
		if got := f.next(); got != "" || f.err == nil {
			t.Errorf("%s: field %q, %v", name, got, f.err)
		}
		if f.header(header); len(header) > 0 || f.err == nil {
			t.Errorf("%s: header %v, %v", name, header, f.err)
		}
	}
	f, header := append(newMessage(1), 0xff, 0x7f, 1, 'a', 1, 'b').fields(), http.Header{}
	if f.header(header); f.err == nil || len(header) > 2 {
		t.Errorf("a header of fewer fields than it says: %v, %v", header, f.err)
	}
}

func TestLink_TooLarge(t *testing.T) {
	one, other := net.Pipe()
	defer func() { _ = one.Close() }()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer func() { _ = other.Close() }()
	writing.Go(func() { _, _ = other.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}) })
	if m, err := newLink(one).receive(); err == nil {
		t.Errorf("a message of %d bytes", len(m))
	}
}

// TestRequests_BackGoes ends the connection under a request, which ends then.
func TestRequests_BackGoes(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan net.Conn, 1)
	go func() {
		conn, _ := gone.Accept()
		taken <- conn
	}()
	server := api(t)
	certificate, key := files(t, server)
	front, client := start(t, Front, Requests, gone.Addr().String(), certificate, key), impatient(server)
	conn := <-taken
	answered := make(chan error, 1)
	go func() {
		response, err := client.Get("https://" + front)
		if err == nil {
			_ = response.Body.Close()
		}
		answered <- err
	}()
	if _, err := newLink(conn).receive(); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	_ = gone.Close()
	defer client.CloseIdleConnections()
	<-answered // an error or a refusal, but not forever
}
