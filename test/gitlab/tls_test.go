package gitlab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes one for 127.0.0.1 that signs itself, and the file that clients need to trust it.
func certificate(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestTLS(t *testing.T) {
	cert, file := certificate(t)
	g := start(t, Config{Certificate: cert, PathPrefix: "/sub"})
	if !strings.HasPrefix(g.URL, "https://127.0.0.1:") || !strings.HasSuffix(g.URL, "/sub") {
		t.Errorf("URL %s", g.URL)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.URL+"/api/v4/job", http.NoBody)
	check(t, err)
	if response, err := http.DefaultClient.Do(request); err == nil {
		_ = response.Body.Close()
		t.Error("a certificate that nobody knows is trusted")
	}
	ciProject(t, g, "x: {script: [cat file.txt]}\n")
	pipeline, err := (&Runner{GitLab: g, CAFile: file}).Run(t.Context(), PipelineRequest{Project: "acme/team/shop", User: "ci-user"})
	if err != nil || !strings.Contains(pipeline.Jobs[0].Log, "\ncontent\n") {
		t.Errorf("%v: %+v", err, pipeline)
	}
}

func TestStart_BadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"short secret": {Secret: make([]byte, 31)},
		"prefix":       {PathPrefix: "sub"},
		"version":      {Version: "18"},
		"minor":        {Version: "18.x"},
		"address":      {Listen: "127.0.0.1:http-no-such-port"},
	} {
		if g, err := Start(t.Context(), cfg); err == nil {
			g.Stop()
			t.Errorf("%s: no error", name)
		}
	}
}
