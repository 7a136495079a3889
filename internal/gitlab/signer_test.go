package gitlab

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"gitlab.com/agentk/agentk/internal/fault"
)

func TestNew_Refuses(t *testing.T) {
	good := secretFile(t, keyA)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "file")
		write(t, path, text)
		return path
	}
	short := file(base64.StdEncoding.EncodeToString(keyA[1:]))
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no address":       {Config{SecretFile: good}, "must begin with http"},
		"unparsable":       {Config{SecretFile: good, Address: "http://kas:pa55word@a b"}, "not a URL"},
		"bad port":         {Config{SecretFile: good, Address: "http://kas:pa55word@host:port"}, "not a URL"},
		"other scheme":     {Config{SecretFile: good, Address: "ftp://kas:pa55word@host"}, "must begin with http"},
		"no host":          {Config{SecretFile: good, Address: "https:///path"}, "must begin with http"},
		"no secret":        {Config{Address: "http://h", SecretFile: filepath.Join(t.TempDir(), "none")}, "no such file"},
		"empty secret":     {Config{Address: "http://h", SecretFile: file("\n")}, "empty"},
		"short secret":     {Config{Address: "http://h", SecretFile: short}, "31 bytes after decoding, must be 32"},
		"secret in plain":  {Config{Address: "http://h", SecretFile: file("pa55word, not Base64!")}, "not Base64"},
		"negative limit":   {Config{Address: "http://h", SecretFile: good, RateLimit: RateLimit{PerSecond: -1}}, "negative"},
		"negative bucket":  {Config{Address: "http://h", SecretFile: good, RateLimit: RateLimit{Burst: -1}}, "negative"},
		"no CA file":       {Config{Address: "http://h", SecretFile: good, CAFile: filepath.Join(t.TempDir(), "none")}, "no such file"},
		"CA file is empty": {Config{Address: "http://h", SecretFile: good, CAFile: file("pa55word")}, "no PEM certificate"},
		"name taken":       {Config{Address: "http://h", SecretFile: good, Registerer: taken()}, "kas_gitlab_requests_total"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(tc.cfg)
			if c != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v", err)
			}
			noSecrets(t, "error", err.Error())
		})
	}
}

func taken() prometheus.Registerer {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "kas_gitlab_requests_total", Help: "another"}))
	return reg
}

func TestNew_Defaults(t *testing.T) {
	c, err := New(Config{Address: "https://gitlab.test", SecretFile: secretFile(t, keyA)})
	if err != nil {
		t.Fatal(err)
	}
	if c.cfg.RateLimit != (RateLimit{PerSecond: 50, Burst: 250}) || !strings.HasPrefix(c.cfg.UserAgent, "gitlab-kas/") || c.Changed() != nil {
		t.Errorf("got %+v", c.cfg)
	}
}

func TestSecret_Forms(t *testing.T) {
	plain := base64.StdEncoding.EncodeToString(keyA)
	for _, form := range []string{plain, plain + "\n", plain + "\r\n", plain + "\n\n", "\n" + plain, plain[:20] + "\n" + plain[20:] + "\n"} {
		path := filepath.Join(t.TempDir(), "secret")
		write(t, path, form)
		s, err := newSigner(path, zap.NewNop())
		if err != nil || string(s.current()) != string(keyA) {
			t.Errorf("%q: %v", form, err)
		}
	}
}

func TestSecret_Reloaded(t *testing.T) {
	r := newRails(t, bare(http.StatusNoContent))
	logs, observed := observer.New(zap.InfoLevel)
	path := secretFile(t, keyA)
	c := r.start(func(cfg *Config) { cfg.SecretFile, cfg.Log = path, zap.New(logs) })
	post := func() error { return c.PostConfiguration(within(t), 7, nil) }
	if err := post(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.key = keyB
	r.mu.Unlock()
	if err := post(); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("with the old secret: %v", err)
	}
	// What is there for a moment while the file is replaced does not count.
	for _, broken := range []string{"", "half", "half"} {
		write(t, path, broken)
		if err := post(); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("with a broken file: %v", err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := post(); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("without a file: %v", err)
	}
	write(t, path, base64.StdEncoding.EncodeToString(keyB))
	if err := post(); err != nil {
		t.Errorf("with the new secret: %v", err)
	}
	if n := observed.FilterMessageSnippet("Cannot read the new secret").Len(); n != 3 {
		t.Errorf("%d log lines: %v", n, observed.All())
	}
}
