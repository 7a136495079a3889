package listen

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// lookEvery is how often, at most, a handshake looks for renewed certificate files.
const lookEvery = time.Second

// ServerTLS returns the TLS settings of a server: version 1.2 at least, only suites with forward secrecy and AEAD, and the
// certificate of the two PEM files, which are read again when they change.
func ServerTLS(certificateFile, keyFile string, alpn []string, log *zap.Logger) (*tls.Config, error) {
	if certificateFile == "" || keyFile == "" {
		return nil, errors.New("TLS needs both a certificate file and a key file")
	}
	c := &certificate{certificateFile: certificateFile, keyFile: keyFile, log: log, now: time.Now}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     alpn,
		GetCertificate: c.get,
	}, nil
}

// certificate is a key pair on disk. It looks at the files during handshakes instead of watching them: nothing has to run
// meanwhile, and the renames by which Kubernetes and certbot renew files need no special care.
type certificate struct {
	certificateFile, keyFile string
	log                      *zap.Logger
	now                      func() time.Time

	mu     sync.Mutex
	pair   *tls.Certificate
	stamps [2]stamp
	// looked is when the files were looked at last; complaint is what was logged about them last.
	looked    time.Time
	complaint string
}

// stamp tells one content of a file from the next.
type stamp struct {
	info os.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.info != nil && o.info != nil && os.SameFile(s.info, o.info) && s.info.ModTime().Equal(o.info.ModTime()) &&
		s.info.Size() == o.info.Size()
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Sub(c.looked) >= lookEvery {
		if err := c.load(); err != nil {
			// The files may be half written, or broken: the pair that worked goes on working.
			if err.Error() != c.complaint {
				c.complaint = err.Error()
				c.log.Warn("Renewed certificate cannot be used; the old one stays", zap.Error(err))
			}
		} else {
			c.complaint = ""
		}
	}
	return c.pair, nil
}

// load reads the pair if the files are not those that it was read from.
func (c *certificate) load() error {
	c.looked = c.now()
	var stamps [2]stamp
	for i, file := range []string{c.certificateFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("load TLS certificate: %w", err)
		}
		stamps[i] = stamp{info: info}
	}
	if stamps[0].same(c.stamps[0]) && stamps[1].same(c.stamps[1]) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certificateFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load TLS certificate %s: %w", c.certificateFile, err)
	}
	c.pair, c.stamps = &pair, stamps
	return nil
}
