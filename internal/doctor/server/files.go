package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/secretfile"
)

// Sizes of secrets in bytes, as their users want them.
const (
	sharedKey       = 32
	minWebSocketKey = 64
	maxWebSocketKey = 72
)

// expiringSoon is how long before its end a certificate is worth a warning.
const expiringSoon = 14 * 24 * time.Hour

// secretFile is a file with a secret in Base64.
type secretFile struct {
	key, path string
	min, max  int
}

// secretFiles checks that all secrets can be read and have their size.
func (d *Doctor) secretFiles(context.Context) doctor.Outcome {
	f := d.kas.File
	files := []secretFile{
		{"agent.kubernetes_api.websocket_token_secret_file", f.GetAgent().GetKubernetesApi().GetWebsocketTokenSecretFile(), minWebSocketKey, maxWebSocketKey},
	}
	if !d.kas.Standalone() {
		files = append(files, secretFile{"gitlab.authentication_secret_file", f.GetGitlab().GetAuthenticationSecretFile(), sharedKey, sharedKey})
	}
	files = append(
		files,
		secretFile{"api.listen.authentication_secret_file", f.GetApi().GetListen().GetAuthenticationSecretFile(), sharedKey, sharedKey},
		secretFile{"private_api.listen.authentication_secret_file", f.GetPrivateApi().GetListen().GetAuthenticationSecretFile(), sharedKey, sharedKey},
	)
	var wrong []string
	looked := 0
	for _, s := range files {
		if s.path == "" {
			continue
		}
		looked++
		if err := s.check(); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", s.key, err))
		}
	}
	for _, path := range []string{f.GetRedis().GetPasswordFile(), f.GetRedis().GetSentinel().GetSentinelPasswordFile()} {
		if path == "" {
			continue
		}
		looked++
		if _, err := os.ReadFile(path); err != nil {
			wrong = append(wrong, fmt.Sprintf("redis: %v", err))
		}
	}
	if len(wrong) > 0 {
		return doctor.Bad("secret-file", "%s", strings.Join(wrong, "; "))
	}
	return doctor.Good("%d files have the right size", looked)
}

func (s secretFile) check() error {
	text, err := secretfile.New(s.path).Read()
	if err != nil {
		return err
	}
	key, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil:
		return fmt.Errorf("%s is not Base64", s.path)
	case len(key) < s.min || len(key) > s.max:
		return fmt.Errorf("%s holds %d bytes and not %s", s.path, len(key), sizes(s.min, s.max))
	}
	return nil
}

func sizes(least, most int) string {
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// pair is a certificate with its key, as several sections have them.
type pair interface {
	GetCertificateFile() string
	GetKeyFile() string
}

// certificates loads those that kas shows, and looks when they expire.
func (d *Doctor) certificates(context.Context) doctor.Outcome {
	f := d.kas.File
	var expiring []string
	count := 0
	for _, one := range []struct {
		key  string
		pair pair
	}{
		{"agent.listen", f.GetAgent().GetListen()},
		{"agent.kubernetes_api.listen", f.GetAgent().GetKubernetesApi().GetListen()},
		{"observability.listen", f.GetObservability().GetListen()},
		{"api.listen", f.GetApi().GetListen()},
		{"private_api.listen", f.GetPrivateApi().GetListen()},
		{"redis.tls", f.GetRedis().GetTls()},
	} {
		if one.pair.GetCertificateFile() == "" {
			continue
		}
		count++
		loaded, err := tls.LoadX509KeyPair(one.pair.GetCertificateFile(), one.pair.GetKeyFile())
		if err != nil {
			return doctor.Bad("certificate-files", "%s: %v", one.key, err)
		}
		leaf, err := x509.ParseCertificate(loaded.Certificate[0])
		if err != nil {
			return doctor.Bad("certificate-files", "%s: %v", one.key, err)
		}
		until := leaf.NotAfter.UTC().Format(time.RFC3339)
		if time.Now().After(leaf.NotAfter) || time.Now().Before(leaf.NotBefore) {
			return doctor.Bad("certificate-expired", "%s: valid from %s to %s", one.key, leaf.NotBefore.UTC().Format(time.RFC3339), until)
		}
		if time.Until(leaf.NotAfter) < expiringSoon {
			expiring = append(expiring, one.key+" "+until)
		}
	}
	switch {
	case len(expiring) > 0:
		return doctor.Doubt("certificate-expiring", "%s", strings.Join(expiring, "; "))
	case count == 0:
		return doctor.Good("none: what is in front of kas has to encrypt")
	}
	return doctor.Good("%d are valid for more than two weeks", count)
}
