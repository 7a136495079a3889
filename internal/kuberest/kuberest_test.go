package kuberest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/internal/agentconfig/agent"
	"gitlab.com/agentk/agentk/internal/agentconfig/agent/kubeevent"
	"gitlab.com/agentk/agentk/internal/kuberest"
	registrar "gitlab.com/agentk/agentk/internal/registrar/agent"
	"gitlab.com/agentk/agentk/test/kube"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) { goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster)) }

func client(t *testing.T) rest.Interface {
	t.Helper()
	cfg := cluster.RESTConfig()
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{TLSClientConfig: tls, ForceAttemptHTTP2: true}
	t.Cleanup(base.CloseIdleConnections)
	c, err := kuberest.New(cfg, &http.Client{Transport: transport.NewBearerAuthRoundTripper(cfg.BearerToken, base)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVersion(t *testing.T) {
	got, err := registrar.KubernetesVersion(client(t))(t.Context())
	if err != nil || got.GetMajor() != "1" || got.GetGitVersion() == "" {
		t.Error(got, err)
	}
}

func TestErrors(t *testing.T) {
	c := client(t)
	err := c.Get().AbsPath("/api/v1/namespaces/default/pods/none").Do(t.Context()).Error()
	if !apierrors.IsNotFound(err) {
		t.Errorf("an absent pod: %T %v", err, err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err = kuberest.Send(t.Context(), c.Post().AbsPath("/api/v1/namespaces"), namespace)
	if !apierrors.IsAlreadyExists(err) || !strings.Contains(err.Error(), `"default" already exists`) {
		t.Errorf("a second namespace: %T %v", err, err)
	}
	if _, err = kuberest.Send(t.Context(), c.Post().AbsPath("/api/v1/namespaces"), func() {}); err == nil {
		t.Error("what is no object was sent")
	}
}

// The agent's events are on its Deployment, where "kubectl describe" shows them, and once for all its pods.
func TestEvents(t *testing.T) {
	c := client(t)
	const spec = `"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
		"spec":{"containers":[{"name":"c","image":"i"}]}}}`
	post(t, c, "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`)
	deployment := post(t, c, "/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"agentk"},`+spec+`}`)
	set := post(t, c, "/apis/apps/v1/namespaces/default/replicasets",
		`{"metadata":{"name":"agentk-5d",`+ownedBy("Deployment", "agentk", deployment)+`},`+spec+`}`)
	core, logs := observer.New(zap.DebugLevel)
	for _, name := range []string{"agentk-5d-x", "agentk-5d-y"} {
		post(t, c, "/api/v1/namespaces/default/pods", `{"metadata":{"name":"`+name+`",`+ownedBy("ReplicaSet", "agentk-5d", set)+`},
			"spec":{"containers":[{"name":"c","image":"i"}]}}`)
		emitter, err := kubeevent.New(kubeevent.Config{Client: c, Namespace: "default", Pod: name, Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		emitter.Emit(t.Context(), agent.Event{Warning: true, Reason: agent.ReasonInvalid, Message: "unknown key"})
		if logs.Len() > 0 {
			t.Error(name, "has trouble:", logs.All())
		}
	}
	list := &corev1.EventList{}
	answer, err := kuberest.Answer(c.Get().AbsPath("/api/v1/namespaces/default/events").Do(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer, list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d events: %v", len(list.Items), list.Items)
	}
	e := list.Items[0]
	if e.InvolvedObject.Kind != "Deployment" || e.InvolvedObject.UID != deployment || e.Message != "unknown key" || e.Type != "Warning" {
		t.Errorf("event %+v", e)
	}
}

func ownedBy(kind, name string, uid types.UID) string {
	return fmt.Sprintf(`"ownerReferences":[{"apiVersion":"apps/v1","kind":%q,"name":%q,"uid":%q,"controller":true}]`, kind, name, uid)
}

// post creates an object, and returns its UID.
func post(t *testing.T, c rest.Interface, path, object string) types.UID {
	t.Helper()
	answer, err := c.Post().AbsPath(path).Body([]byte(object)).Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(path, err, string(answer))
	}
	created := &metav1.PartialObjectMetadata{}
	if err := json.Unmarshal(answer, created); err != nil {
		t.Fatal(err)
	}
	return created.UID
}
