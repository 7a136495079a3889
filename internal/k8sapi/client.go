package k8sapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/secretfile"
	"gitlab.com/agentk/agentk/internal/version"
)

// Config configures a Client.
type Config struct {
	// REST is the way to the API server. Its limits (QPS, Timeout) and the path of its Host are not used.
	REST *rest.Config
	// ImpersonationServiceAccount, "<namespace>/<name>", makes requests with an identity from kas use a token of that account,
	// got by TokenRequest. Empty: the agent's own credentials impersonate.
	ImpersonationServiceAccount string
	// ImpersonationTokenFile names a file that holds such a token instead. It is read again when it changes.
	ImpersonationTokenFile string
	Log                    *zap.Logger
}

// Client performs requests at the API server. It implements httpgrpc.Performer.
type Client struct {
	// base is the scheme and host of the API server.
	base *url.URL
	// self is the identity that the agent's own configuration impersonates.
	self  rest.ImpersonationConfig
	known knownIdentities
	own   *lane
	// identities is the lane of requests with an identity from kas, and tokens its credentials; nil without an impersonation
	// account.
	identities *lane
	tokens     tokenSource
	account    *accountTokens // tokens, when it has to be kept fresh
}

var _ httpgrpc.Performer = (*Client)(nil)

// New returns a Client. It opens no connection. An error says which setting is wrong.
func New(cfg Config) (*Client, error) {
	base, _, err := rest.DefaultServerUrlFor(cfg.REST)
	if err != nil {
		return nil, fmt.Errorf("API server address: %w", err)
	}
	c := &Client{
		base: &url.URL{Scheme: base.Scheme, Host: base.Host},
		self: cfg.REST.Impersonate,
	}
	if c.impersonatesItself() && c.self.UserName == "" {
		return nil, errors.New("impersonation by the agent's own configuration needs a user name (--as)")
	}
	if c.own, err = newLane(c.base, ownCredentials(cfg.REST)); err != nil {
		return nil, fmt.Errorf("connection to the API server: %w", err)
	}
	if cfg.ImpersonationServiceAccount == "" && cfg.ImpersonationTokenFile == "" {
		return c, nil
	}
	if c.impersonatesItself() {
		return nil, errors.New("an impersonation account and impersonation by the agent's own configuration (--as) exclude each other")
	}
	if c.identities, err = newLane(c.base, noCredentials(cfg.REST)); err != nil {
		return nil, fmt.Errorf("connection to the API server: %w", err)
	}
	switch {
	case cfg.ImpersonationServiceAccount != "" && cfg.ImpersonationTokenFile != "":
		return nil, errors.New("an impersonation service account and an impersonation token file exclude each other")
	case cfg.ImpersonationTokenFile != "":
		c.tokens = fileTokens{file: secretfile.New(cfg.ImpersonationTokenFile)}
	default:
		if c.account, err = newAccountTokens(cfg.ImpersonationServiceAccount, c.base, lasting{c.own}, cfg.Log); err != nil {
			return nil, err
		}
		c.tokens = c.account
	}
	return c, nil
}

// Run keeps the impersonation account's token fresh until ctx ends, and closes idle connections then. It always returns nil.
func (c *Client) Run(ctx context.Context) error {
	if c.account != nil {
		c.account.run(ctx)
	}
	<-ctx.Done()
	c.own.close()
	if c.identities != nil {
		c.identities.close()
	}
	return nil
}

// RoundTrip implements httpgrpc.Performer; extra is a HeaderExtra.
func (c *Client) RoundTrip(req *http.Request, extra *anypb.Any) (*http.Response, error) {
	out, err := c.perform(req, extra)
	if err != nil && req.Body != nil {
		_ = req.Body.Close()
	}
	return out, err
}

func (c *Client) perform(req *http.Request, extra *anypb.Any) (*http.Response, error) {
	said, err := c.known.read(extra)
	if err != nil {
		return nil, err
	}
	out, err := c.prepare(req, said)
	if err != nil {
		return nil, err
	}
	source, err := c.impersonate(out.Header, said)
	if err != nil {
		return nil, err
	}
	var resp *http.Response
	if source == sourceKas && c.identities != nil {
		resp, err = c.sendAsAccount(out)
	} else {
		resp, err = c.own.RoundTrip(out)
	}
	if err != nil {
		var known *fault.Error
		if errors.As(err, &known) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", fault.APIServer, err)
	}
	finish(resp)
	return resp, nil
}

// Own returns the way of the agent's own requests to the API server: its credentials, its own impersonation if there is one, and
// the connections of the proxied requests.
func (c *Client) Own() http.RoundTripper { return ownRequests{c} }

type ownRequests struct{ client *Client }

func (o ownRequests) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if o.client.impersonatesItself() {
		if err := writeIdentity(req.Header, selfIdentity(o.client.self)); err != nil {
			return nil, err
		}
	}
	return o.client.own.RoundTrip(req)
}

// sendAsAccount sends a request that impersonates with the impersonation account's token, or not at all.
func (c *Client) sendAsAccount(req *http.Request) (*http.Response, error) {
	token, err := c.tokens.token(req.Context())
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, fault.Agent, err, "agent: no token of the impersonation account")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.identities.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		c.tokens.rejected(token)
	}
	return resp, err
}

// finish notes this hop in the answer.
func finish(resp *http.Response) {
	upgrade := httpgrpc.UpgradeOf(resp.Header)
	httpgrpc.RemoveHopByHop(resp.Header)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		httpgrpc.RestoreUpgrade(resp.Header, upgrade)
	}
	resp.Header.Add("Via", strconv.Itoa(resp.ProtoMajor)+"."+strconv.Itoa(resp.ProtoMinor)+" "+version.Agentk())
}

// refuse is the answer to a request that this agent will not perform.
func refuse(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, fault.Agent, "agent: "+format, args...)
}
