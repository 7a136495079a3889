package k8sproxy

import (
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/fault"
)

// defaultRetryAfter is when a client that was turned away for load may come back, if nobody knows better.
const defaultRetryAfter = time.Second

// transaction is what is known about one request, for the log and the metrics.
type transaction struct {
	started    time.Time
	trace      trace
	credential credential
	grant      grant
	path       string
	// code of the answer; 499 if the client was gone before there was one.
	code int
	// sent and received count bytes towards the cluster and towards the client.
	sent, received int64
	upgraded       bool
	// committed: an answer has begun, so no other can follow.
	committed bool
	// abort: the client connection must not be used any more.
	abort bool
	// hop and err explain a failure; empty if there was none.
	hop fault.Hop
	err string
}

// ServeHTTP serves one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.inflight.enter()
	defer p.inflight.leave()
	p.sendAway(w.Header(), r)
	t := &transaction{started: time.Now(), trace: traceOf(r.Header), credential: credential{access: accessNone}}
	p.guarded(t, w, r)
	p.observe(t, r)
	if t.abort {
		panic(http.ErrAbortHandler)
	}
}

// guarded serves t and survives a panic of its own code: the one request fails, the others go on.
func (p *Proxy) guarded(t *transaction, w http.ResponseWriter, r *http.Request) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		p.metrics.panics.Inc()
		p.cfg.Log.Error("Request handler panicked", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()), traceID(t))
		t.hop, t.err = fault.Kas, "internal error"
		if t.committed {
			t.abort = true
			return
		}
		p.refuse(t, w, r, &refusal{code: http.StatusInternalServerError, hop: fault.Kas, msg: "Internal error"})
	}()
	if why := p.serve(t, w, r); why != nil {
		p.refuse(t, w, r, why)
	}
}

// serve is the way of a request; the order of the steps matters.
func (p *Proxy) serve(t *transaction, w http.ResponseWriter, r *http.Request) *refusal {
	if !p.origin(w.Header(), r.Header) {
		t.code, t.hop, t.err = http.StatusForbidden, fault.Client, "origin is not allowed"
		w.WriteHeader(http.StatusForbidden)
		return nil
	}
	w.Header().Set(headerServer, product)
	if r.Method == http.MethodOptions {
		t.code = http.StatusOK
		preflight(w, r)
		return nil
	}
	to, why := p.targetOf(r.URL)
	if why != nil {
		return why
	}
	t.path = to.path
	if t.credential, why = credentialOf(r.Header, to.query); why != nil {
		t.credential = credential{access: accessNone}
		return why
	}
	if t.grant, why = p.authorize(r.Context(), t.credential); why != nil {
		if r.Context().Err() != nil {
			t.code, t.abort, t.hop, t.err = statusClientGone, true, fault.Client, why.logText()
			return nil
		}
		return why
	}
	p.count(t)
	return p.forward(t, w, r, to, t.grant)
}

// usageKinds are the credentials in the words of usage reports.
var usageKinds = map[access]string{accessCI: "ci", accessPAT: "pat", accessSession: "user"}

func (p *Proxy) count(t *transaction) {
	if p.cfg.Usage != nil {
		p.cfg.Usage.ProxyRequest(usageKinds[t.credential.access], t.grant.userID, t.credential.agentID, t.grant.configProjectID)
	}
}

func (p *Proxy) refuse(t *transaction, w http.ResponseWriter, r *http.Request, why *refusal) {
	id := ""
	if p.cfg.ShowTraceID {
		id = t.trace.id
	}
	t.hop, t.err = why.hop, why.logText()
	t.committed = true
	t.code, t.received = writeRefusal(w, r, why, id)
}
