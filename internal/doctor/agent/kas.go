package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/kasdial"
	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	// probeMethod is below a path that reverse proxies route to kas, which has no such method: any answer of kas will do.
	probeMethod = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Probe"
	// configurationWait is how long the configuration is waited for. Kas reads it from a repository.
	configurationWait = 5 * time.Second
)

// plainURL is the kas address for plain HTTP.
func (d *Doctor) plainURL() *url.URL {
	u := *d.target.URL
	u.Scheme = map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	return &u
}

func (d *Doctor) header() http.Header {
	h := d.cfg.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", version.Agentk())
	}
	return h
}

// http asks the agent endpoint without an upgrade, which it refuses.
func (d *Doctor) http(ctx context.Context) doctor.Outcome {
	a, o := d.target.Get(ctx, d.plainURL(), d.header())
	if a == nil {
		return o
	}
	d.server, d.offset, d.dated = a.Header.Get("Server"), a.Offset, a.Dated
	if a.Code == http.StatusUpgradeRequired {
		return doctor.Good("%s answers 426 to a request without upgrade, as it should", d.target.Address())
	}
	// Stock releases and some reverse proxies refuse with 400 or 405: whether it is kas is seen at the next hop.
	if o, foreign := d.target.Front(a); foreign {
		return o
	}
	return doctor.Good("%s answers %d", d.target.Address(), a.Code)
}

// webSocket dials as the agent does.
func (d *Doctor) webSocket(ctx context.Context) doctor.Outcome {
	conn, err := (&wsconn.Dialer{TLS: d.trust, Header: d.header()}).Dial(ctx, d.target.URL)
	if err == nil {
		_ = conn.Close()
		return doctor.Good("opened, subprotocol %s", wsconn.Subprotocol)
	}
	var answer *wsconn.AnswerError
	if !errors.As(err, &answer) {
		return doctor.Bad("not-websocket", "%v", err)
	}
	return doctor.Bad(answerCause(answer.Status), "%v", err)
}

// answerCause is what an HTTP status in place of a WebSocket or of gRPC means.
func answerCause(code int) string {
	switch {
	case code >= 300 && code < 400:
		return "redirect"
	case code == http.StatusNotFound:
		return "not-routed"
	case code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return "bad-gateway"
	case code == http.StatusUpgradeRequired:
		return "upgrade-stripped"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "refused-in-front"
	case code == http.StatusOK:
		return "web-page"
	default:
		return "not-websocket"
	}
}

// grpc opens the agent's own channel and sends a call through it.
func (d *Doctor) grpc(ctx context.Context) doctor.Outcome {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var err error
	d.kas, err = kasdial.New(kasdial.Config{
		Address: d.cfg.Address, TokenSource: d.tokenOrNone, CAFile: d.cfg.CAFile, Header: d.cfg.Header,
		InsecureSkipVerify: d.cfg.InsecureSkipVerify, ServerName: d.cfg.ServerName, UserAgent: version.Agentk(),
		OnState: func(e kasdial.Event) {
			if e.Change != kasdial.Connected {
				cancel(e.Reason) // the agent would go on; here the first failure counts
			}
		},
	})
	if err != nil {
		return doctor.Bad("kas-address", "%v", err)
	}
	err = d.kas.Invoke(ctx, probeMethod, &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(true))
	switch code := status.Code(err); {
	case context.Cause(ctx) != nil && context.Cause(ctx) != ctx.Err():
		return doctor.Bad("wrong-protocol", "gRPC with kas: %v", context.Cause(ctx))
	case code == codes.DeadlineExceeded, code == codes.Canceled:
		return doctor.Bad("too-slow", "gRPC with kas: no answer")
	case code == codes.Unavailable:
		text := status.Convert(err).Message()
		if number, found := answeredCode(text); found {
			return doctor.Bad(answerCause(number), "%s", text)
		}
		return doctor.Bad("wrong-protocol", "gRPC with kas: %s", text)
	}
	return doctor.Good("kas answers")
}

// answeredCode finds the HTTP status in what the dialler says of an answer that is not kas'.
func answeredCode(text string) (code int, found bool) {
	_, rest, found := strings.Cut(text, "expected an answer of kas but got ")
	if !found {
		return 0, false
	}
	_, err := fmt.Sscanf(rest, "%d", &code)
	return code, err == nil
}

func (d *Doctor) tokenOrNone() string {
	if d.cfg.Token == nil {
		return ""
	}
	return d.cfg.Token()
}

// foreignTokens are how tokens of other kinds begin.
var foreignTokens = []struct{ prefix, kind string }{
	{"glpat-", "a personal access token"},
	{"glcbt-", "the token of a CI job"},
	{"glrt-", "the token of a runner"},
	{"gldt-", "a deploy token"},
	{"glptt-", "a trigger token"},
}

// token asks kas whose token it is. Unregistering a pod that never registered changes nothing and needs a token that is good.
func (d *Doctor) token(ctx context.Context) doctor.Outcome {
	switch {
	case d.cfg.TokenError != nil:
		return doctor.Bad("token-missing", "%v", d.cfg.TokenError)
	case d.cfg.Token == nil:
		return doctor.Skip("stopping before authentication: %s", d.cfg.NoToken)
	}
	text := d.cfg.Token()
	for _, f := range foreignTokens {
		if strings.HasPrefix(text, f.prefix) {
			return doctor.Bad("token-kind", "it begins with %s: it is %s", f.prefix, f.kind)
		}
	}
	if strings.ContainsAny(text, " \t\r\n") {
		return doctor.Bad("token-kind", "it has white space inside or around it")
	}
	shape := ""
	if !strings.Contains(text, "glagent-") {
		shape = "; it does not contain glagent-, as those of GitLab do and those of a standalone kas need not"
	}
	_, err := agentregistrar.NewAgentRegistrarClient(d.kas).Unregister(ctx, &agentregistrar.UnregisterRequest{
		AgentMeta: d.meta(), PodId: 1 + rand.Int64N(1<<62),
	})
	st := status.Convert(err)
	switch st.Code() {
	case codes.OK:
		return doctor.Good("kas knows it%s", shape)
	case codes.Unimplemented:
		return doctor.Good("this kas is older than 17.1 and does not say; see the next check%s", shape)
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound:
		return doctor.Bad("agent-token-refused", "kas says: %s%s", st.Message(), shape)
	case codes.DeadlineExceeded, codes.Canceled:
		return doctor.Bad("too-slow", "kas did not say whose token it is: %s", st.Message())
	default:
		return doctor.Bad("gitlab-behind-kas", "kas cannot say whose token it is: %s", st.Message())
	}
}

func (d *Doctor) meta() *entity.AgentMeta {
	return &entity.AgentMeta{
		Version: version.Version, CommitId: version.Commit, PodNamespace: d.cfg.Namespace, PodName: d.cfg.Pod,
		KubernetesVersion: &entity.KubernetesVersion{},
	}
}

// agentConfiguration asks for the configuration as the agent does.
func (d *Doctor) agentConfiguration(ctx context.Context) doctor.Outcome {
	ctx, cancel := context.WithTimeout(ctx, configurationWait)
	defer cancel()
	stream, err := agentconfiguration.NewAgentConfigurationClient(d.kas).GetConfiguration(ctx, &agentconfiguration.ConfigurationRequest{
		AgentMeta: d.meta(), SkipRegister: true,
	})
	if err != nil {
		return doctor.Bad("gitlab-behind-kas", "kas does not send it: %s", status.Convert(err).Message())
	}
	m, err := stream.Recv()
	if err == nil {
		d.configuration = m.GetConfiguration()
		return d.describe(m.GetCommitId())
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.DeadlineExceeded, codes.Canceled:
		return doctor.Doubt("no-agent-configuration", "kas sent none within %v: the repository is empty, or GitLab or Gitaly are slow", configurationWait)
	case codes.Unauthenticated, codes.PermissionDenied:
		return doctor.Bad("agent-token-refused", "kas says: %s", st.Message())
	case codes.FailedPrecondition, codes.InvalidArgument:
		return doctor.Bad("agent-configuration", "kas says: %s", st.Message())
	case codes.NotFound:
		return doctor.Bad("no-agent-configuration", "kas says: %s", st.Message())
	default:
		return doctor.Bad("gitlab-behind-kas", "kas cannot read it: %s", st.Message())
	}
}

// describe says what a configuration amounts to.
func (d *Doctor) describe(commit string) doctor.Outcome {
	const short = 8
	c := d.configuration
	access := c.GetCiAccess()
	projects, groups := len(access.GetProjects()), len(access.GetGroups())
	where := fmt.Sprintf("agent %d of %s, commit %s", c.GetAgentId(), c.GetProjectPath(), commit[:min(len(commit), short)])
	if projects == 0 && groups == 0 && access.GetInstance() == nil {
		return doctor.Doubt("no-agent-configuration", "%s, no ci_access: no job may use it (user_access is not told to agents)", where)
	}
	return doctor.Good("%s, ci_access for %d projects and %d groups", where, projects, groups)
}
