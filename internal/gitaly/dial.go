package gitaly

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	expcredentials "google.golang.org/grpc/experimental/credentials"
	"google.golang.org/grpc/keepalive"

	"gitlab.com/agentk/agentk/internal/version"
)

// pingAfter keeps clear of the shortest interval that any server allows, which is 20 s.
const pingAfter = 30 * time.Second

// connectTimeout bounds one attempt to connect.
const connectTimeout = 20 * time.Second

// reconnect comes back sooner than the library's two minutes: a push should not wait that long for a Gitaly that has returned.
var reconnect = backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * time.Second}

// serviceConfig spreads the calls over all addresses and repeats those that no server has begun to answer. ResourceExhausted is
// not repeated: it is how Gitaly asks to be left in peace.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [
      {"service": "gitaly.SmartHTTPService", "method": "InfoRefsUploadPack"},
      {"service": "gitaly.CommitService", "method": "TreeEntry"},
      {"service": "gitaly.CommitService", "method": "GetTreeEntries"},
      {"service": "gitaly.CommitService", "method": "FindCommit"},
      {"service": "gitaly.RefService", "method": "FindDefaultBranchName"},
      {"service": "gitaly.RefService", "method": "ListRefs"},
      {"service": "gitaly.BlobService", "method": "GetBlobs"}
    ],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.4s",
      "maxBackoff": "1.4s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
}`

// dialer makes connections.
type dialer struct {
	roots *x509.CertPool
	now   func() time.Time
	extra []grpc.DialOption
}

// dial returns a connection that connects when it is first used. An error says what is wrong with the address.
func (d *dialer) dial(text, token string) (*grpc.ClientConn, error) {
	e, err := parseAddress(text)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(d.credentials(e)),
		grpc.WithUserAgent(version.Kas()),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectTimeout}),
	}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(&signer{secret: token, now: d.now}))
	}
	target := "passthrough:///" + e.hostPort()
	switch {
	case e.socket != "":
		target = "passthrough:///localhost"
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, networkSocket, e.socket)
		}))
	case e.resolve:
		target = dnsScheme + ":///" + e.hostPort()
		options = append(options, grpc.WithNoProxy(), grpc.WithResolvers(newDNSBuilder(e)))
	}
	cc, err := grpc.NewClient(target, append(options, d.extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to Gitaly: %w", err)
	}
	return cc, nil
}

func (d *dialer) credentials(e endpoint) credentials.TransportCredentials {
	if !e.secure {
		return insecure.NewCredentials()
	}
	// Load balancers that end TLS in front of Gitaly may not negotiate a protocol.
	return expcredentials.NewTLSWithALPNDisabled(&tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    d.roots,
		ServerName: e.host,
	})
}

// rootsOr returns the given certificates, or the system's if there are none.
func rootsOr(roots *x509.CertPool) (*x509.CertPool, error) {
	if roots != nil {
		return roots, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("gitaly: certificates of the system: %w", err)
	}
	if runtime.GOOS == "darwin" {
		appendCertificates(roots, os.Getenv("SSL_CERT_FILE"), os.Getenv("SSL_CERT_DIR"))
	}
	return roots, nil
}

// appendCertificates adds those of a file and of the files of a list of folders: what the environment names on other systems,
// macOS leaves to the program. What cannot be read is passed over, as the other systems do.
func appendCertificates(roots *x509.CertPool, file, folders string) {
	files := []string{file}
	for _, folder := range filepath.SplitList(folders) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			files = append(files, filepath.Join(folder, entry.Name()))
		}
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err == nil {
			roots.AppendCertsFromPEM(pem)
		}
	}
}
