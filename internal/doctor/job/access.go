package job

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
)

// kasPrefix begins the messages of kas' own errors; those of a cluster do not have it.
const kasPrefix = "GitLab Agent Server: "

// hops are the checks between the job and kas.
func (w *way) hops() []doctor.Check {
	if w.err != nil {
		return nil
	}
	t := &w.target
	checks := []doctor.Check{
		{ID: "server", Name: "server", Needs: []string{"context"}, Run: w.server},
		{ID: "proxy-dns", Name: "DNS of the proxy", Needs: []string{"server"}, Run: func(ctx context.Context) doctor.Outcome { return t.DNS(ctx) }},
		{ID: "proxy-tcp", Name: "connection to the proxy", Needs: []string{"proxy-dns"}, Run: func(ctx context.Context) doctor.Outcome { return t.Connect(ctx) }},
	}
	last := "proxy-tcp"
	if t.Encrypted() {
		checks = append(checks, doctor.Check{ID: "proxy-tls", Name: "TLS of the proxy", Needs: []string{last}, Run: func(ctx context.Context) doctor.Outcome { return t.Handshake(ctx) }})
		last = "proxy-tls"
	}
	return append(checks, doctor.Check{ID: "proxy-http", Name: "HTTP of the proxy", Needs: []string{last}, Run: w.http})
}

// server checks the URL of the context's cluster.
func (w *way) server(context.Context) doctor.Outcome {
	u := w.target.URL
	if u.Scheme != "https" {
		return doctor.Bad("plain-proxy", "%s", u.Redacted())
	}
	return doctor.Good("%s", u.Redacted())
}

// http asks without a credential, which kas refuses in words of its own.
func (w *way) http(ctx context.Context) doctor.Outcome {
	at := *w.target.URL
	at.Path = strings.TrimSuffix(at.Path, "/") + "/version"
	a, o := w.target.Get(ctx, &at, http.Header{"Accept": {"application/json"}})
	switch {
	case a == nil:
		return o
	case a.Header.Get("Gitlab-Unauthorized") == "true", strings.Contains(a.Body, kasPrefix) && a.Code == http.StatusUnauthorized:
		return doctor.Good("kas answers, and asks for a credential")
	case a.Code == http.StatusBadRequest && strings.Contains(a.Body, kasPrefix):
		return doctor.Bad("wrong-prefix", "kas refuses the path %s", w.target.URL.Path)
	case a.Code == http.StatusUpgradeRequired:
		return doctor.Bad("not-the-proxy", "the end of the agents' connections answers at %s", w.target.URL.Redacted())
	}
	if o, foreign := w.target.Front(a); foreign {
		return o
	}
	return doctor.Bad("not-the-proxy", "%s answered %d without asking for a credential", w.target.URL.Redacted(), a.Code)
}

// checks are those of one context.
func (w *way) checks() []doctor.Check {
	suffix, label := "", ""
	if len(w.doctor.ways) > 1 {
		suffix, label = fmt.Sprintf("[%s]", w.name), " of "+w.name
	}
	return []doctor.Check{
		{ID: "credential" + suffix, Name: "credential" + label, Needs: []string{"context"}, Run: w.checkCredential},
		{ID: "access" + suffix, Name: "access" + label, Needs: []string{"proxy-http", "credential" + suffix}, Run: w.access},
		{ID: "identity" + suffix, Name: "identity" + label, Needs: []string{"access" + suffix}, Run: w.identity},
		{ID: "rights" + suffix, Name: "rights" + label, Needs: []string{"identity" + suffix}, Run: w.rights},
		{ID: "streams" + suffix, Name: "exec and attach" + label, Needs: []string{"rights" + suffix}, Run: w.streams},
	}
}

// checkCredential looks at the form of the token.
func (w *way) checkCredential(context.Context) doctor.Outcome {
	if w.err != nil {
		return doctor.Bad("kubeconfig-overridden", "%v", w.err)
	}
	if w.rest.ExecProvider != nil {
		return doctor.Good("by the program %s", w.rest.ExecProvider.Command)
	}
	var err error
	if w.credential, err = parseCredential(w.rest.BearerToken); err != nil {
		return doctor.Bad("credential-shape", "context %s: %v", w.name, err)
	}
	if w.credential.kind == kindJob && w.doctor.cfg.JobToken != "" && w.doctor.cfg.JobToken != w.credential.secret {
		return doctor.Doubt("job-token-stale", "its token is not $CI_JOB_TOKEN")
	}
	who := map[string]string{kindJob: "a CI job", kindUser: "a user"}[w.credential.kind]
	return doctor.Good("of %s, for agent %d", who, w.credential.agentID)
}

// access asks the cluster for its version, which everybody may see who gets there.
func (w *way) access(ctx context.Context) doctor.Outcome {
	var err error
	if w.client, err = kubeapi.New(w.rest); err != nil {
		return doctor.Bad("kubeconfig-overridden", "%v", err)
	}
	a, err := w.client.Do(ctx, "/version", nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		// Kas looks for longer than is worth waiting for: an agent that is there is found in milliseconds.
		return doctor.Bad("agent-offline", "kas found no connection of agent %d within %v", w.credential.agentID, doctor.DefaultTimeout)
	case err != nil:
		return reach.Explain(w.target.Name, w.target.Address(), err)
	case a.Code == http.StatusOK && a.Version() != "":
		return doctor.Good("the cluster answers, Kubernetes %s", a.Version())
	}
	return w.refused(a)
}

// refused explains an answer that is none of the hoped-for ones.
func (w *way) refused(a *kubeapi.Answer) doctor.Outcome {
	message := a.Message()
	seen := fmt.Sprintf("%d %s", a.Code, message)
	own := strings.HasPrefix(message, kasPrefix) || strings.Contains(message, "HTTP->gRPC")
	switch {
	case strings.Contains(message, "nested impersonation"):
		return doctor.Bad("nested-impersonation", "%s", seen)
	case strings.Contains(message, "cannot impersonate"):
		return doctor.Bad("impersonate", "%s", seen)
	case own && a.Code == http.StatusUnauthorized && w.credential.kind == kindUser:
		return doctor.Bad("user-token-refused", "%s", seen)
	case own && a.Code == http.StatusUnauthorized, own && a.Code == http.StatusNotFound,
		own && a.Code == http.StatusForbidden && strings.Contains(message, "CI job token"):
		return doctor.Bad("job-token-refused", "%s", seen)
	case own && a.Code == http.StatusForbidden:
		return doctor.Bad("not-in-ci-access", "%s", seen)
	case own && a.Code == http.StatusBadRequest:
		return doctor.Bad("wrong-prefix", "%s", seen)
	case own && a.Code == http.StatusInternalServerError:
		return doctor.Bad("gitlab-behind-kas", "%s", seen)
	case own && a.Code == http.StatusTooManyRequests:
		return doctor.Bad("agent-busy", "%s", seen)
	case own && strings.Contains(message, "Agent connection not found"):
		return doctor.Bad("agent-offline", "%s", seen)
	case own && strings.Contains(message, "gRPC -> HTTP"):
		return doctor.Bad("cluster-behind-agent", "%s", seen)
	case own && a.Code == http.StatusBadGateway:
		return doctor.Bad("agent-offline", "%s", seen)
	case a.Code == http.StatusUnauthorized:
		return doctor.Bad("cluster-behind-agent", "the cluster refuses the agent's credentials: %s", seen)
	case a.Code == http.StatusForbidden:
		return doctor.Bad("job-rights", "%s", seen)
	}
	answer := &reach.Answer{Code: a.Code, Header: a.Header, Body: string(a.Body)}
	if o, foreign := w.target.Front(answer); foreign {
		return o
	}
	return doctor.Bad("not-the-proxy", "%s", seen)
}
