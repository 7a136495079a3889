package k8sproxy

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/route"
)

const (
	service = "gitlab.agent.kubernetes_api.rpc.KubernetesApi"
	method  = "MakeRequest"
	// nested is what every version says when two sources claim an identity.
	nested = "nested impersonation is not supported"
)

// forward passes an authorized request on. A nil refusal means that the client has its answer, or what there is of it.
func (p *Proxy) forward(t *transaction, w http.ResponseWriter, r *http.Request, to target, g grant) *refusal {
	sent, listed := impersonates(r.Header)
	if listed || sent && g.identity != nil {
		return badRequest(nested + ": the request has an identity already, Impersonate-* headers cannot change it")
	}
	header := requestHeader(r.Header)
	if len(httpgrpc.UpgradeOf(header)) > 0 && !httpgrpc.CanUpgrade(w, r) {
		return &refusal{
			code: http.StatusInternalServerError, hop: fault.Kas,
			msg: "HTTP->gRPC: " + httpgrpc.StageUpgrade + ": the connection cannot be taken over",
		}
	}
	extra, err := extraOf(g, to)
	if err != nil {
		return &refusal{code: http.StatusInternalServerError, hop: fault.Kas, msg: "Failed to construct impersonation config: " + err.Error()}
	}
	q := route.Request{AgentID: t.credential.agentID, Service: service, Method: method, Meta: t.trace.meta()}
	if to.escaped != "" {
		q.Require = []string{httpgrpc.ExtEncodedPath}
	}
	x := &httpgrpc.Exchange{
		Method: r.Method, Path: to.path, Query: to.query, Header: header, Extra: extra,
		ContentLength: r.ContentLength, Body: r.Body, Multiplexed: multiplexed(r),
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	call, err := p.cfg.Opener.Open(ctx, q)
	if err != nil {
		return t.notOpened(r, err, to)
	}
	refused, err := p.exchange(t, w, r, call, cancel, x, to)
	for range repeats {
		if refused == nil || !errors.Is(err, httpgrpc.ErrLost) || !repeatable(r, x) {
			break
		}
		again, cancelAgain := p.reopen(r.Context(), q)
		if again == nil {
			break
		}
		t.hop, t.err = "", ""
		refused, err = p.exchange(t, w, r, again, cancelAgain, x, to)
		cancelAgain()
	}
	return refused
}

// repeats bounds how often a request is sent again: what is found next may be a stream of the same connection.
const repeats = 3

// repeatWait is how long a request that was lost with the agent's connection may wait for another stream, to be sent again.
// Connections are cut while others work already, for example when a reverse proxy in front of kas is restarted or one of several pods
// of an agent ends. Agents reconnect at once, and of those that are gone the failure is the answer.
const repeatWait = 2 * time.Second

// repeatable says whether a request may be sent twice when nothing of its answer has arrived.
func repeatable(r *http.Request, x *httpgrpc.Exchange) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && x.ContentLength == 0 && len(httpgrpc.UpgradeOf(x.Header)) == 0
}

// reopen opens another call for a request; nil if there is none soon. The returned function ends the call.
func (p *Proxy) reopen(ctx context.Context, q route.Request) (route.Call, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(repeatWait, cancel)
	call, err := p.cfg.Opener.Open(ctx, q)
	if err != nil {
		late.Stop()
		cancel()
		return nil, nil
	}
	if !late.Stop() { // the call has just been ended
		call.Finish(false)
		return nil, nil
	}
	return call, cancel
}

// extraOf packs what the agent has to know beside the request; nil if that is nothing.
func extraOf(g grant, to target) (*anypb.Any, error) {
	if to.escaped == "" {
		return g.extra, nil
	}
	return anypb.New(&kubernetesapi.HeaderExtra{ImpConfig: g.identity, EscapedPath: to.escaped})
}

// exchange performs x over a call. The error is why, beside the refusal that says it to the client.
func (p *Proxy) exchange(t *transaction, w http.ResponseWriter, r *http.Request, call route.Call, abort context.CancelFunc, x *httpgrpc.Exchange, to target) (*refusal, error) {
	delete(x.Query, queryAgentID)
	delete(x.Query, queryCSRF)
	x.Respond = func(status int, peer http.Header) {
		// From here on a panic can only end the connection.
		t.committed = true
		p.policy.apply(w.Header(), status, peer, t.credential)
		if status == http.StatusSwitchingProtocols {
			t.upgraded = true
			p.metrics.upgrades.Inc()
		}
	}
	var res httpgrpc.Result
	defer func() {
		call.Finish(res.Done)
		if t.upgraded {
			p.metrics.upgrades.Dec()
		}
	}()
	res, err := (&httpgrpc.Requester{Stream: call, Abort: abort}).Do(r.Context(), w, x)
	t.code, t.committed = res.Status, res.Committed
	t.sent, t.received = res.Sent, res.Received
	if err == nil {
		return nil, nil
	}
	if late, ok := call.(interface{ Unopened() error }); ok && !res.Committed && late.Unopened() != nil {
		return t.notOpened(r, late.Unopened(), to), err
	}
	return t.failed(r, err, res.Committed), err
}

// notOpened explains why there is no call.
func (t *transaction) notOpened(r *http.Request, err error, to target) *refusal {
	var f *fault.Error
	ctx := r.Context()
	retryAfter := defaultRetryAfter
	if errors.As(err, &f) && f.RetryAfter > 0 {
		retryAfter = f.RetryAfter
	}
	hop := hopOr(err, fault.Agent)
	switch kind := fault.KindOf(err); {
	case ctx.Err() != nil:
		return t.failed(r, httpgrpc.StreamError(ctx, err), false)
	case kind == fault.ResourceExhausted:
		return &refusal{code: http.StatusTooManyRequests, hop: hop, msg: "Too many requests: " + err.Error(), retryAfter: retryAfter}
	case kind == fault.InvalidArgument && to.escaped != "":
		return &refusal{
			code: http.StatusBadRequest, hop: hop,
			msg: "Bad request: the path has an encoded slash or dot segment, which would not keep its meaning: " + err.Error(),
		}
	case kind == fault.Internal:
		return &refusal{code: http.StatusInternalServerError, hop: hop, msg: "Proxy failed to make outbound request: " + err.Error()}
	default:
		return t.failed(r, httpgrpc.StreamError(ctx, err), false)
	}
}

// failed turns a broken exchange into an answer, if there is still somebody to answer and nothing has been answered yet.
func (t *transaction) failed(r *http.Request, err error, committed bool) *refusal {
	ctx := r.Context()
	hop := fault.Agent
	var failure *httpgrpc.Error
	stage := ""
	if errors.As(err, &failure) {
		hop, stage = failure.Hop, failure.Stage
	}
	t.hop, t.err = hop, err.Error()
	switch {
	case committed:
		// An upgraded connection is closed already; any other must not look complete. A watch never is: wherever it breaks, it ends
		// as at an API server that stops, and its client takes it up again behind the last event.
		t.abort = !t.upgraded && !httpgrpc.Watches(r)
		return nil
	case ctx.Err() != nil && hop == fault.Client:
		t.code, t.abort = statusClientGone, true
		return nil
	case stage == httpgrpc.StageUpgrade:
		return &refusal{code: http.StatusInternalServerError, hop: hop, msg: err.Error()}
	case strings.Contains(err.Error(), nested):
		return &refusal{code: http.StatusBadRequest, hop: hop, msg: "Bad request: " + err.Error()}
	default:
		return &refusal{code: http.StatusBadGateway, hop: hop, msg: err.Error()}
	}
}
