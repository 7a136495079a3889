package reach

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/internal/doctor"
)

// explainTLS finds the cause of a failed handshake in which name was expected.
func (t Target) explainTLS(name string, err error) doctor.Outcome {
	var (
		unknown  x509.UnknownAuthorityError
		wrong    x509.HostnameError
		invalid  x509.CertificateInvalidError
		plain    tls.RecordHeaderError
		remote   *net.OpError
		verified *tls.CertificateVerificationError
		netErr   net.Error
	)
	who := fmt.Sprintf("TLS handshake with %s (%s)", t.Name, t.Address())
	switch {
	case errors.As(err, &plain):
		return doctor.Bad("not-tls", "%s: the answer is not TLS", who)
	case errors.As(err, &wrong):
		return doctor.Bad("server-name", "%s: certificate is valid for %s, not for %s", who, names(wrong.Certificate), name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		return doctor.Bad("certificate-expired", "%s: certificate is valid from %s to %s, and it is %s here", who,
			stamp(c.NotBefore), stamp(c.NotAfter), stamp(time.Now()))
	case errors.As(err, &unknown):
		o := doctor.Bad("private-ca", "%s: certificate signed by unknown authority %q", who, issuer(err))
		o.Fix = t.FixAuthority
		return o
	case errors.As(err, &remote) && remote.Op == "remote error", errors.As(err, &verified):
		return doctor.Bad("tls-failed", "%s: %v", who, err)
	case errors.As(err, &netErr) && netErr.Timeout():
		return doctor.Bad("too-slow", "%s: no answer", who)
	case strings.HasSuffix(err.Error(), "EOF"), errors.As(err, &netErr):
		return Explain(t.Name, t.Address(), err)
	default:
		return doctor.Bad("tls-failed", "%s: %v", who, err)
	}
}

// names are those that a certificate is for.
func names(c *x509.Certificate) string {
	all := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no name at all"
	case len(all) > 6:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:6], ", "), len(all)-6)
	}
	return strings.Join(all, ", ")
}

// issuer is who signed the certificate that was not trusted.
func issuer(err error) string {
	var verified *tls.CertificateVerificationError
	if errors.As(err, &verified) && len(verified.UnverifiedCertificates) > 0 {
		return verified.UnverifiedCertificates[len(verified.UnverifiedCertificates)-1].Issuer.CommonName
	}
	return "unknown"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
