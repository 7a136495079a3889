package leader_test

import (
	"context"
	"errors"
	"net/http"
	"path"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/internal/leader"
	"gitlab.com/agentk/agentk/test/kube"
)

const limit = time.Minute

var cluster *kube.ControlPlane

func TestMain(m *testing.M) { goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster)) }

// pod is one that wants to lead.
type pod struct {
	cut      atomic.Bool // its requests fail
	unheard  atomic.Bool // its next update is done, and it is told to stop instead of hearing so
	leads    chan context.Context
	give     chan error
	cancel   context.CancelFunc
	ended    chan error
	finished atomic.Bool
}

func (p *pod) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.cut.Load() {
		return nil, errors.New("the wire is cut")
	}
	if r.Method == http.MethodPut && p.unheard.CompareAndSwap(true, false) {
		resp, err := inner.RoundTrip(r.Clone(context.WithoutCancel(r.Context())))
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		p.cancel()
		return nil, context.Canceled
	}
	return inner.RoundTrip(r)
}

// inner is replaced by each test's own connection.
var inner http.RoundTripper

func connect(t *testing.T) *rest.Config {
	t.Helper()
	cfg := cluster.RESTConfig()
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{TLSClientConfig: tls, ForceAttemptHTTP2: true}
	t.Cleanup(base.CloseIdleConnections)
	inner = transport.NewBearerAuthRoundTripper(cfg.BearerToken, base)
	return cfg
}

func newPod(t *testing.T, rc *rest.Config, name, identity string, change ...func(*leader.Config)) *pod {
	t.Helper()
	p := &pod{leads: make(chan context.Context, 10), give: make(chan error), ended: make(chan error, 1)}
	e, err := leader.New(configOf(t, client(t, rc, p), name, identity, change...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.cancel = cancel
	go func() {
		p.ended <- e.Run(ctx, func(ctx context.Context) error {
			p.leads <- ctx
			select {
			case <-ctx.Done():
				return nil
			case err := <-p.give:
				return err
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if !p.finished.Load() {
			<-p.ended
		}
	})
	return p
}

func configOf(t *testing.T, c rest.Interface, name, identity string, change ...func(*leader.Config)) leader.Config {
	cfg := leader.Config{
		Client: c, Namespace: "default", Name: name, Identity: identity,
		Duration: 3 * time.Second, RenewDeadline: 2 * time.Second, Retry: 100 * time.Millisecond,
		Log: zaptest.NewLogger(t), Registerer: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&cfg)
	}
	return cfg
}

// patient is for pods that lead until they are told otherwise, however slow the machine is.
func patient(c *leader.Config) { c.Duration, c.RenewDeadline = time.Hour, time.Hour-time.Minute }

func client(t *testing.T, rc *rest.Config, through http.RoundTripper) rest.Interface {
	t.Helper()
	rc = rest.CopyConfig(rc)
	rc.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	c, err := rest.UnversionedRESTClientForConfigAndClient(rc, &http.Client{Transport: through})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *pod) elected(t *testing.T) context.Context {
	t.Helper()
	select {
	case ctx := <-p.leads:
		return ctx
	case err := <-p.ended:
		p.finished.Store(true)
		t.Fatal("the election ended: ", err)
	case <-time.After(limit):
		t.Fatal("never elected")
	}
	return nil
}

func (p *pod) stop(t *testing.T) error {
	t.Helper()
	p.cancel()
	return p.end(t)
}

func (p *pod) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		p.finished.Store(true)
		return err
	case <-time.After(limit):
		t.Fatal("the election does not end")
		return nil
	}
}

func lease(t *testing.T, rc *rest.Config, name string) *coordinationv1.Lease {
	t.Helper()
	l, err := leader.LeaseForTest(t.Context(), client(t, rc, inner), "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOneLeads_TheNextTakesOverAtOnce(t *testing.T) {
	rc := connect(t)
	owner := &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "agentk", UID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}
	owned := func(c *leader.Config) {
		c.Owner = func(context.Context) *metav1.OwnerReference { return owner }
	}
	// The Lease would count for an hour: only one that is given up can be taken in time.
	a := newPod(t, rc, "handover", "pod-a", owned, patient)
	first := a.elected(t)
	if got := lease(t, rc, "handover").OwnerReferences; len(got) != 1 || got[0] != *owner {
		t.Errorf("owners %v", got)
	}
	b := newPod(t, rc, "handover", "pod-b", patient)
	if err := a.stop(t); err != nil || first.Err() == nil {
		t.Error(err, first.Err())
	}
	b.elected(t)
	got := lease(t, rc, "handover")
	if *got.Spec.HolderIdentity != "pod-b" || *got.Spec.LeaseTransitions < 1 {
		t.Errorf("%+v", got.Spec)
	}
}

// A renewal that the end of the term cuts off arrives all the same: the Lease is given up nevertheless.
func TestStopDuringARenewal_TheNextTakesOverAtOnce(t *testing.T) {
	rc := connect(t)
	a := newPod(t, rc, "unheard", "pod-a", patient)
	a.elected(t)
	b := newPod(t, rc, "unheard", "pod-b", patient)
	a.unheard.Store(true)
	if err := a.end(t); err != nil {
		t.Error(err)
	}
	b.elected(t)
}

func TestManyPods_OneLeader(t *testing.T) {
	rc := connect(t)
	var pods []*pod
	for _, identity := range []string{"a", "b", "c", "d", "e"} {
		pods = append(pods, newPod(t, rc, "many", identity, patient))
	}
	// Each leader in turn stops; no two may lead at a time, and all get their turn.
	for len(pods) > 0 {
		deadline := time.After(limit)
		led := -1
		for led < 0 {
			for i, p := range pods {
				select {
				case <-p.leads:
					led = i
				default:
				}
			}
			select {
			case <-deadline:
				t.Fatal("nobody was elected")
			case <-time.After(10 * time.Millisecond):
			}
		}
		for i, p := range pods {
			if i != led && len(p.leads) > 0 {
				t.Fatal("two pods lead")
			}
		}
		if err := pods[led].stop(t); err != nil {
			t.Error(err)
		}
		pods = slices.Delete(pods, led, led+1)
	}
}

func TestCutOff_StopsBeforeTheNextStarts(t *testing.T) {
	rc := connect(t)
	apart := func(c *leader.Config) { c.Duration = 5 * time.Second } // three more than the deadline
	a := newPod(t, rc, "cut", "pod-a", apart)
	term := a.elected(t)
	b := newPod(t, rc, "cut", "pod-b", apart)
	a.cut.Store(true)
	b.elected(t)
	if term.Err() == nil {
		t.Fatal("two pods lead")
	}
	a.cut.Store(false)
	if err := b.stop(t); err != nil {
		t.Error(err)
	}
	a.elected(t) // it goes on taking part
}

func TestShortTrouble_GoesOnLeading(t *testing.T) {
	rc := connect(t)
	a := newPod(t, rc, "trouble", "pod-a", patient)
	term := a.elected(t)
	before := lease(t, rc, "trouble")
	a.cut.Store(true)
	time.AfterFunc(500*time.Millisecond, func() { a.cut.Store(false) })
	for deadline := time.Now().Add(limit); ; {
		now := lease(t, rc, "trouble")
		if !a.cut.Load() && now.Spec.RenewTime.After(before.Spec.RenewTime.Add(500*time.Millisecond)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the Lease is not renewed any more")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if term.Err() != nil {
		t.Error("it stopped leading")
	}
}

// A Lease that was removed is made anew, and one that is taken away ends the term.
func TestMeddling(t *testing.T) {
	rc := connect(t)
	a := newPod(t, rc, "meddling", "pod-a", patient)
	term := a.elected(t)
	c := client(t, rc, inner)
	if err := c.Delete().AbsPath(leasePath("meddling")).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if l, err := leader.LeaseForTest(t.Context(), c, "default", "meddling"); err == nil && *l.Spec.HolderIdentity == "pod-a" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the Lease is not made anew")
		}
	}
	if term.Err() != nil {
		t.Error("it stopped leading")
	}
	patch := []byte(`{"spec":{"holderIdentity":"somebody","leaseDurationSeconds":1}}`)
	if err := c.Patch("application/merge-patch+json").AbsPath(leasePath("meddling")).Body(patch).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-term.Done():
	case <-time.After(limit):
		t.Fatal("it goes on leading")
	}
	a.elected(t) // nobody renews what was taken away
}

func leasePath(name string) string {
	return path.Join("/apis/coordination.k8s.io/v1/namespaces/default/leases", name)
}

func TestLeadEnds(t *testing.T) {
	rc := connect(t)
	for _, want := range []error{nil, errors.New("no more")} {
		a := newPod(t, rc, "ends", "pod-a")
		a.elected(t)
		a.give <- want
		if err := a.end(t); !errors.Is(err, want) {
			t.Errorf("Run = %v, want %v", err, want)
		}
		if got := lease(t, rc, "ends"); *got.Spec.HolderIdentity != "" {
			t.Errorf("still held by %q", *got.Spec.HolderIdentity)
		}
	}
}

func TestNew_BadConfig(t *testing.T) {
	for name, change := range map[string]func(*leader.Config){
		"no namespace":         func(c *leader.Config) { c.Namespace = "" },
		"no name":              func(c *leader.Config) { c.Name = "" },
		"no identity":          func(c *leader.Config) { c.Identity = "" },
		"deadline too long":    func(c *leader.Config) { c.RenewDeadline = c.Duration },
		"pause over deadline":  func(c *leader.Config) { c.Retry = c.RenewDeadline },
		"duration too short":   func(c *leader.Config) { c.Duration = time.Second },
		"deadline over unsaid": func(c *leader.Config) { c.Duration, c.RenewDeadline = 0, 20*time.Second },
	} {
		if _, err := leader.New(configOf(t, nil, "bad", "pod-a", change)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
