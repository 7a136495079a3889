// Package agent has the doctor's checks of an agent: its way to kas, hop by hop and with the agent's own dialler, its token, and its
// account in the cluster.
package agent

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
	"gitlab.com/agentk/agentk/internal/kasdial"
	"gitlab.com/agentk/agentk/internal/version"
)

// Config is what an agent would be started with.
type Config struct {
	Address            string
	CAFile             string
	Header             http.Header
	InsecureSkipVerify bool
	ServerName         string
	// Token returns the agent token. nil: there is none, NoToken says why; TokenError: there should be one.
	Token      func() string
	NoToken    string
	TokenError error
	// REST is the way to the cluster. nil: nobody asked for it, NoCluster says why; ClusterError: it cannot be found.
	REST         *rest.Config
	NoCluster    string
	ClusterError error
	// Namespace and Pod are where the agent runs.
	Namespace, Pod string
	// ImpersonationServiceAccount is NAMESPACE/NAME of the account that impersonates in place of the agent's own; empty: its own does.
	ImpersonationServiceAccount string
	// ImpersonationTokenFile has a token of that account, where the agent need not get one.
	ImpersonationTokenFile string
}

// Doctor makes the checks of one agent, and carries what one finds to the next.
type Doctor struct {
	cfg    Config
	target reach.Target
	trust  *tls.Config
	// kas is the connection of the gRPC check, for those after it.
	kas *kasdial.Client
	// server is what kas calls itself, offset how far its clock is ahead.
	server string
	offset time.Duration
	dated  bool
	// configuration is the agent's, as kas sent it; nil: none was sent.
	configuration *agentcfg.AgentConfiguration
	cluster       *kubeapi.Client
}

// New returns a Doctor. Close must be called.
func New(cfg Config) *Doctor { return &Doctor{cfg: cfg} }

// Close ends connections.
func (d *Doctor) Close() {
	if d.kas != nil {
		_ = d.kas.Close() // nothing is sent any more
	}
	if d.cluster != nil {
		d.cluster.Close()
	}
}

// Target is the kas address without what may be secret; empty, if it is none.
func (d *Doctor) Target() string {
	u, err := kasdial.ParseAddress(d.cfg.Address)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Checks are all that can be made with the configuration, in order.
func (d *Doctor) Checks() []doctor.Check {
	checks := []doctor.Check{{ID: "kas-address", Name: "kas address", Run: d.address}}
	u, err := kasdial.ParseAddress(d.cfg.Address)
	if err == nil {
		d.target = reach.Target{Name: "kas", URL: u}
		checks = append(checks, d.hops()...)
	}
	checks = append(
		checks,
		doctor.Check{ID: "agent-token", Name: "agent token", Needs: []string{"kas-address", "grpc"}, Run: d.token},
		doctor.Check{ID: "agent-configuration", Name: "agent configuration", Needs: []string{"agent-token"}, Run: d.agentConfiguration},
	)
	return append(checks, d.clusterChecks()...)
}

// hops are the checks between here and kas.
func (d *Doctor) hops() []doctor.Check {
	t := &d.target
	checks := []doctor.Check{
		{ID: "kas-dns", Name: "DNS of kas", Needs: []string{"kas-address"}, Run: func(ctx context.Context) doctor.Outcome { return t.DNS(ctx) }},
		{ID: "kas-tcp", Name: "connection to kas", Needs: []string{"kas-dns"}, Run: func(ctx context.Context) doctor.Outcome { return t.Connect(ctx) }},
	}
	last := "kas-tcp"
	if t.Encrypted() {
		checks = append(checks, doctor.Check{ID: "kas-tls", Name: "TLS of kas", Needs: []string{last}, Run: func(ctx context.Context) doctor.Outcome { return t.Handshake(ctx) }})
		last = "kas-tls"
	}
	if isWebSocket(t.URL) {
		checks = append(
			checks,
			doctor.Check{ID: "kas-http", Name: "HTTP of kas", Needs: []string{last}, Run: d.http},
			doctor.Check{ID: "websocket", Name: "WebSocket", Needs: []string{"kas-http"}, Run: d.webSocket},
			doctor.Check{ID: "clock", Name: "clock", Needs: []string{"kas-http"}, Run: d.clock},
		)
		last = "websocket"
	}
	return append(
		checks,
		doctor.Check{ID: "grpc", Name: "gRPC", Needs: []string{last}, Run: d.grpc},
		doctor.Check{ID: "kas-version", Name: "version of kas", Needs: []string{"grpc"}, Run: d.version},
	)
}

// address checks what can be known without a network.
func (d *Doctor) address(context.Context) doctor.Outcome {
	if _, err := kasdial.ParseAddress(d.cfg.Address); err != nil {
		return doctor.Bad("kas-address", "%v", err)
	}
	var err error
	d.trust, err = kasdial.TLSConfig(kasdial.Config{
		CAFile: d.cfg.CAFile, ServerName: d.cfg.ServerName, InsecureSkipVerify: d.cfg.InsecureSkipVerify,
	})
	if err != nil {
		return doctor.Bad("ca-file", "%v", err)
	}
	d.target.TLS = d.trust
	if d.cfg.InsecureSkipVerify {
		return doctor.Good("%s, certificate not verified as asked", d.Target())
	}
	return doctor.Good("%s", d.Target())
}

func isWebSocket(u *url.URL) bool { return u.Scheme == "ws" || u.Scheme == "wss" }

// maxOffset is how far the clocks may differ before somebody should look after them: tokens between kas and GitLab bear 5 s.
const maxOffset = 5 * time.Second

// clock compares the clocks here and at kas. An agent works with a wrong one, unless certificates seem to be out of date; kas and GitLab
// do not.
func (d *Doctor) clock(context.Context) doctor.Outcome {
	if !d.dated {
		return doctor.Skip("the answer has no Date")
	}
	if d.offset.Abs() > maxOffset {
		return doctor.Doubt("clock-offset", "the clock of %s is %s", d.target.URL.Hostname(), reach.Ahead(d.offset))
	}
	return doctor.Good("differs from that of %s by less than %v", d.target.URL.Hostname(), maxOffset)
}

// version compares versions, if kas tells its own: reverse proxies often replace the header.
func (d *Doctor) version(context.Context) doctor.Outcome {
	rest, isKas := strings.CutPrefix(d.server, version.KasName+"/")
	theirs, _, _ := strings.Cut(rest, "/")
	if !isKas {
		return doctor.Skip("kas, or the reverse proxy in front of it, does not tell it")
	}
	if distance(theirs, version.Version) > 1 {
		return doctor.Doubt("version-skew", "kas is %s, this agent is %s", theirs, version.Version)
	}
	return doctor.Good("kas is %s, this agent is %s", theirs, version.Version)
}
