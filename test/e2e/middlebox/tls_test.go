//go:build e2e

package middlebox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// otherAuthority is a certificate authority that the line knows nothing of.
type otherAuthority struct {
	file string // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newOtherAuthority(t *testing.T) *otherAuthority {
	t.Helper()
	a := &otherAuthority{file: filepath.Join(t.TempDir(), "other-ca.crt")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// replace writes a certificate that is valid for one host until some time over that of kas.
func (a *otherAuthority) replace(t *testing.T, l *line.Line, host string, until time.Time) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "kas"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(l.Dir, "kas.crt"), "CERTIFICATE", der)
	writePEM(t, filepath.Join(l.Dir, "kas.key"), "PRIVATE KEY", private)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{line.WSS, line.GRPCS} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			testTLS(t, scheme)
		})
	}
}

// testTLS goes through the certificates that kas may show, with one kas that is never restarted.
func testTLS(t *testing.T, scheme string) {
	const name = "kas.internal"
	other := newOtherAuthority(t)
	agent := "tls-" + scheme
	agents, jobs := pairs(agent)
	l := line.StartT(t, line.Config{ControlPlane: cluster, Scheme: scheme, Agents: agents, Jobs: jobs, PlainProxy: true})
	pid := l.KasPID()
	// restart starts the agent anew with other flags; it is expected to connect unless words tell what its log says instead.
	restart := func(what string, args []string, words ...string) {
		t.Helper()
		adjust(t, l, agent, func(a *line.Agent) { a.Args = args })
		if len(words) == 0 {
			connect(t, l, agent)
		} else {
			wantLine(t, what, launch(t, l, agent), append(words, "Cannot connect to gRPC server")...)
		}
		if _, err := l.StopAgent(soon(t), agent); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	trustOther := []string{"--kas-ca-cert-file", other.file}

	restart("the line's own authority", nil)
	restart("the wrong authority", trustOther, "TLS handshake with "+l.AgentAddress, "certificate signed by unknown authority")
	restart("no verification", append(trustOther, "--kas-insecure-skip-tls-verify"))

	other.replace(t, l, name, time.Now().Add(time.Hour))
	restart("a certificate for another name", trustOther, "TLS handshake with "+l.AgentAddress, "cannot validate certificate for 127.0.0.1")
	restart("a certificate for another name, which is given", append(trustOther, "--kas-tls-server-name", name))
	restart("the authority of the old certificate", []string{"--kas-tls-server-name", name}, "TLS handshake with "+l.AgentAddress, "certificate signed by unknown authority")

	other.replace(t, l, "127.0.0.1", time.Now().Add(-time.Minute))
	restart("an expired certificate", trustOther, "TLS handshake with "+l.AgentAddress, "certificate has expired")

	// Renewed while the agent tries: it connects by itself.
	adjust(t, l, agent, func(a *line.Agent) { a.Args = trustOther })
	log := launch(t, l, agent)
	wantLine(t, "an expired certificate", log, "certificate has expired")
	other.replace(t, l, "127.0.0.1", time.Now().Add(time.Hour))
	wantLine(t, "the renewed certificate", log, "Connected to gRPC server")
	if l.KasPID() != pid {
		t.Error("kas was restarted meanwhile")
	}
}

func TestTLS_SchemeDoesNotFit(t *testing.T) {
	t.Parallel()
	for _, kas := range []struct {
		scheme string
		wrong  map[string][]string // words of the log, by the scheme that the agent was given
	}{
		{line.WSS, map[string][]string{line.WS: {"is it a TLS port, and wss:// meant?"}, line.GRPC: {"do scheme and port belong together"}}},
		{line.WS, map[string][]string{line.WSS: {"does not speak TLS"}, line.GRPCS: {"does not speak TLS"}}},
	} {
		t.Run("kas listens for "+kas.scheme, func(t *testing.T) {
			t.Parallel()
			var agents []line.Agent
			for scheme := range kas.wrong {
				agents = append(agents, adminAgent(int64(len(agents)+1), "misfit-"+scheme, "acme/jobs"))
			}
			l := line.StartT(t, line.Config{
				ControlPlane: cluster, Scheme: kas.scheme, Agents: agents, Jobs: []line.Job{}, PlainProxy: true,
			})
			for scheme, words := range kas.wrong {
				agent := "misfit-" + scheme
				adjust(t, l, agent, func(a *line.Agent) { a.KasAddress = scheme + "://" + l.AgentAddress })
				wantLine(t, "log of the agent", launch(t, l, agent), append(words, "Cannot connect to gRPC server")...)
			}
		})
	}
}
