package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/version"
)

// section is a listener of the configuration.
type section interface {
	GetNetwork() string
	GetAddress() string
	pair
}

// listener is one of them, and how to tell that it is kas who listens.
type listener struct {
	id, key string
	section section
	// served says who answers there; empty: not kas.
	served func(ctx context.Context, l *listener) string
	path   string
}

// listeners are the checks of all that kas listens on.
func (d *Doctor) listeners() []doctor.Check {
	f := d.kas.File
	agent := listener{"listen-agent", "agent.listen", f.GetAgent().GetListen(), httpServer, "/"}
	if !f.GetAgent().GetListen().GetWebsocket() {
		agent.served = grpcServer
	}
	all := []listener{agent}
	if k := f.GetAgent().GetKubernetesApi(); k != nil {
		all = append(all, listener{"listen-proxy", "agent.kubernetes_api.listen", k.GetListen(), httpServer, k.GetUrlPathPrefix()})
	}
	o := f.GetObservability()
	all = append(all, listener{"listen-observability", "observability.listen", o.GetListen(), httpServer, o.GetLivenessProbe().GetUrlPath()})
	if l := f.GetApi().GetListen(); l != nil {
		all = append(all, listener{"listen-api", "api.listen", l, grpcServer, ""})
	}
	if l := f.GetPrivateApi().GetListen(); l != nil {
		all = append(all, listener{"listen-private-api", "private_api.listen", l, grpcServer, ""})
	}
	var checks []doctor.Check
	for _, l := range all {
		checks = append(checks, doctor.Check{ID: l.id, Name: l.key, Run: l.check})
	}
	return checks
}

// check listens for a moment, or finds out who does.
func (l *listener) check(ctx context.Context) doctor.Outcome {
	network, address := l.section.GetNetwork(), l.section.GetAddress()
	if network == "unix" {
		return l.checkSocket(ctx, address)
	}
	var config net.ListenConfig
	opened, err := config.Listen(ctx, network, address)
	if err == nil {
		_ = opened.Close()
		return doctor.Good("%s is free: no kas runs here", address)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return l.taken(ctx)
	}
	return doctor.Bad("listener-address", "%s: %v", address, err)
}

// checkSocket looks at a path without making a socket there.
func (l *listener) checkSocket(ctx context.Context, path string) doctor.Outcome {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if folder, err := os.Stat(filepath.Dir(path)); err != nil || !folder.IsDir() {
			return doctor.Bad("listener-address", "the folder of %s is not there", path)
		}
		return doctor.Good("%s is free: no kas runs here", path)
	case err != nil:
		return doctor.Bad("listener-address", "%v", err)
	case info.Mode()&fs.ModeSocket == 0:
		return doctor.Bad("listener-taken", "%s is not a socket", path)
	}
	conn, err := l.dial(ctx)
	if err != nil {
		return doctor.Good("%s is left from before, kas will remove it", path)
	}
	_ = conn.Close()
	return l.taken(ctx)
}

// taken says whether it is kas that listens.
func (l *listener) taken(ctx context.Context) doctor.Outcome {
	if who := l.served(ctx, l); who != "" {
		return doctor.Good("%s is served by %s", l.section.GetAddress(), who)
	}
	return doctor.Bad("listener-taken", "%s is used by something that does not answer as kas", l.section.GetAddress())
}

// dial connects to the listener from this machine.
func (l *listener) dial(ctx context.Context) (net.Conn, error) {
	network, address := l.section.GetNetwork(), l.section.GetAddress()
	if network != "unix" {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		address = net.JoinHostPort(host, port)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, address)
}

// trust is none: the question is whether it is kas, and nothing secret is sent.
func (l *listener) trust() *tls.Config {
	if l.section.GetCertificateFile() == "" {
		return nil
	}
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
}

// httpServer asks for a page and looks who signs the answer.
func httpServer(ctx context.Context, l *listener) string {
	scheme := "http"
	if l.trust() != nil {
		scheme = "https"
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: l.trust(),
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://kas%s", scheme, l.path), http.NoBody)
	if err != nil {
		return ""
	}
	response, err := client.Do(request)
	if err != nil {
		return ""
	}
	_ = response.Body.Close()
	if server := response.Header.Get("Server"); strings.HasPrefix(server, version.KasName) {
		return server
	}
	if response.Header.Get("Gitlab-Unauthorized") == "true" {
		return "kas"
	}
	return ""
}

// grpcServer calls a method that is not there.
func grpcServer(ctx context.Context, l *listener) string {
	security := insecure.NewCredentials()
	if trust := l.trust(); trust != nil {
		security = credentials.NewTLS(trust)
	}
	conn, err := grpc.NewClient(
		"passthrough:kas", grpc.WithTransportCredentials(security), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.dial(ctx) }),
	)
	if err != nil {
		return ""
	}
	defer conn.Close()
	err = conn.Invoke(ctx, "/gitlab.agent.doctor/Probe", &emptypb.Empty{}, &emptypb.Empty{})
	switch status.Code(err) {
	case codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		return "a gRPC server"
	}
	return ""
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
