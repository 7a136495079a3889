package kubeevent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/agentconfig/agent"
	"gitlab.com/agentk/agentk/internal/kuberest"
	"gitlab.com/agentk/agentk/internal/ownpod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	podPath    = "/api/v1/namespaces/ns/pods/agentk-5d-x"
	setPath    = "/apis/apps/v1/namespaces/ns/replicasets/agentk-5d"
	eventsPath = "/api/v1/namespaces/ns/events"

	pod = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"agentk-5d-x","namespace":"ns","uid":"pod-uid","ownerReferences":
		[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"agentk-5d","uid":"set-uid","controller":true}]}}`
	bare = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"agentk-5d-x","namespace":"ns","uid":"pod-uid"}}`
	set  = `{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"name":"agentk-5d","namespace":"ns","uid":"set-uid","ownerReferences":
		[{"apiVersion":"apps/v1","kind":"Deployment","name":"agentk","uid":"deployment-uid","controller":true}]}}`
)

// cluster answers what it has, 403 to the rest, and keeps events by name.
type cluster struct {
	mu      sync.Mutex // guards all below
	objects map[string]string
	events  map[string]corev1.Event
	order   []string
	patches int
	refuse  bool
	hang    bool
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hang {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "application/json")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch {
	case c.refuse:
	case r.Method == http.MethodGet && c.objects[r.URL.Path] != "":
		_, _ = io.WriteString(w, c.objects[r.URL.Path])
		return
	case r.Method == http.MethodPost && r.URL.Path == eventsPath:
		var e corev1.Event
		if json.Unmarshal(body, &e) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if _, known := c.events[e.Name]; known {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"AlreadyExists","code":409}`)
			return
		}
		c.events[e.Name] = e
		c.order = append(c.order, e.Name)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
		return
	case r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, eventsPath+"/"):
		c.patches++
		_, _ = io.WriteString(w, `{"kind":"Event","apiVersion":"v1"}`)
		return
	}
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
}

func newCluster(objects map[string]string) *cluster {
	return &cluster{objects: objects, events: map[string]corev1.Event{}}
}

func newEmitter(t *testing.T, c *cluster, namespace, podName string) (*Emitter, *observer.ObservedLogs) {
	t.Helper()
	server := httptest.NewServer(c)
	transport := &http.Transport{}
	client, err := kuberest.New(&rest.Config{Host: server.URL}, &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	core, logs := observer.New(zapcore.DebugLevel)
	e, err := New(Config{Client: client, Namespace: namespace, Pod: podName, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	return e, logs
}

var invalid = agent.Event{Warning: true, Reason: agent.ReasonInvalid, Message: "Config: ci_acces (line 1): unknown key"}

func TestEmit_FindsTheDeployment(t *testing.T) {
	tests := []struct {
		name    string
		objects map[string]string
		want    ownpod.Object
	}{
		{
			"a Deployment",
			map[string]string{podPath: pod, setPath: set},
			ownpod.Object{Kind: "Deployment", APIVersion: "apps/v1", Namespace: "ns", Name: "agentk", UID: "deployment-uid"},
		},
		{
			"a replica set that may not be read",
			map[string]string{podPath: pod},
			ownpod.Object{Kind: "Pod", APIVersion: "v1", Namespace: "ns", Name: "agentk-5d-x", UID: "pod-uid"},
		},
		{
			"a bare pod",
			map[string]string{podPath: bare},
			ownpod.Object{Kind: "Pod", APIVersion: "v1", Namespace: "ns", Name: "agentk-5d-x", UID: "pod-uid"},
		},
		{
			"a pod that may not be read", nil,
			ownpod.Object{Kind: "Pod", APIVersion: "v1", Namespace: "ns", Name: "agentk-5d-x"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(test.objects)
			e, _ := newEmitter(t, c, "ns", "agentk-5d-x")
			e.Emit(t.Context(), invalid)
			if len(c.order) != 1 {
				t.Fatalf("%d events", len(c.order))
			}
			got := c.events[c.order[0]]
			o := got.InvolvedObject
			involved := ownpod.Object{Kind: o.Kind, APIVersion: o.APIVersion, Namespace: o.Namespace, Name: o.Name, UID: o.UID}
			if diff := cmp.Diff(test.want, involved); diff != "" {
				t.Error(diff)
			}
			if got.Type != "Warning" || got.Reason != "InvalidConfiguration" || got.Message != invalid.Message || got.Count != 1 ||
				got.Source.Component != component || got.LastTimestamp.IsZero() || !strings.HasPrefix(got.Name, test.want.Name+".") {
				t.Errorf("event %+v", got)
			}
		})
	}
}

func TestEmit_SaysTheSameOnce(t *testing.T) {
	c := newCluster(map[string]string{podPath: pod, setPath: set})
	e, _ := newEmitter(t, c, "ns", "agentk-5d-x")
	for range 5 {
		e.Emit(t.Context(), invalid)
	}
	applied := agent.Event{Reason: agent.ReasonApplied, Message: "valid again"}
	e.Emit(t.Context(), applied)
	if len(c.order) != 2 || c.patches != 0 {
		t.Fatalf("%d events, %d patches", len(c.order), c.patches)
	}
	if got := c.events[c.order[1]]; got.Type != "Normal" || got.Reason != "ConfigurationApplied" {
		t.Errorf("event %+v", got)
	}
	// The same mistake again is the same event again, and so it is for another pod.
	e.Emit(t.Context(), invalid)
	other, _ := newEmitter(t, c, "ns", "agentk-5d-x")
	other.Emit(t.Context(), invalid)
	if len(c.order) != 2 || c.patches != 2 {
		t.Errorf("%d events, %d patches, want 2 and 2", len(c.order), c.patches)
	}
}

func TestEmit_TriesAgainAfterAFailure(t *testing.T) {
	c := newCluster(map[string]string{podPath: pod, setPath: set})
	c.refuse = true
	e, logs := newEmitter(t, c, "ns", "agentk-5d-x")
	e.Emit(t.Context(), invalid)
	if logs.FilterMessage("Kubernetes Event was not published").Len() != 1 {
		t.Errorf("log: %v", logs.All())
	}
	c.mu.Lock()
	c.refuse = false
	c.mu.Unlock()
	e.Emit(t.Context(), invalid)
	if len(c.order) != 1 || c.events[c.order[0]].InvolvedObject.Kind != "Deployment" {
		t.Errorf("events %v", c.events)
	}
}

func TestEmit_OutsideACluster(t *testing.T) {
	c := newCluster(nil)
	for _, where := range [][2]string{{"", ""}, {"ns", ""}, {"", "pod"}} {
		e, logs := newEmitter(t, c, where[0], where[1])
		e.Emit(t.Context(), invalid)
		if len(c.order) != 0 || logs.Len() != 0 {
			t.Errorf("%q: %v", where, logs.All())
		}
	}
}

func TestEmit_SilentAPIServer(t *testing.T) {
	c := newCluster(nil)
	c.hang = true
	e, _ := newEmitter(t, c, "ns", "agentk-5d-x")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Emit(ctx, invalid)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("did not return")
	}
}

func TestShorten(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", maxMessage), strings.Repeat("x", maxMessage+1), strings.Repeat("ä", maxMessage)} {
		got := shorten(text)
		if len(got) > maxMessage || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid %t", len(got), utf8.ValidString(got))
		}
		if len(text) <= maxMessage && got != text {
			t.Errorf("%q was changed", text)
		}
	}
}
