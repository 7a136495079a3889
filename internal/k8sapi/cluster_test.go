package k8sapi

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/test/kube"
)

// fakeAgent is an agent in a real cluster whose account may ask for tokens of one impersonation account and nothing else.
type fakeAgent struct {
	rest *rest.Config
	// account is the impersonation account as "<namespace>/<name>", token a token of it.
	account, token string
	// certificate is a way into the cluster with a client certificate of the user "certified".
	certificate *rest.Config
}

// clusterRBAC lets the impersonation account impersonate, the agent ask for its tokens, and a job's group read namespaces.
var clusterRBAC = map[string]string{
	"clusterroles": `{"metadata":{"name":"impersonate"},"rules":[
		{"apiGroups":[""],"resources":["users","groups"],"verbs":["impersonate"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["uids","userextras/agent.gitlab.com/id"],"verbs":["impersonate"]}]}`,
	"clusterrolebindings": `{"metadata":{"name":"impersonate"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"impersonate"},
		"subjects":[{"kind":"ServiceAccount","namespace":"agent","name":"impersonator"}]}`,
	"namespaces/agent/roles": `{"metadata":{"name":"token"},"rules":[
		{"apiGroups":[""],"resources":["serviceaccounts/token"],"resourceNames":["impersonator"],"verbs":["create"]}]}`,
	"namespaces/agent/rolebindings": `{"metadata":{"name":"token"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"token"},
		"subjects":[{"kind":"ServiceAccount","namespace":"agent","name":"agentk"}]}`,
}

func startCluster(t *testing.T) fakeAgent {
	t.Helper()
	cp := kube.StartT(t, kube.Config{})
	kubeconfig, err := cp.KubeconfigFor("certified", "group")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := cp.CreateServiceAccount(t.Context(), "agent", "agentk")
	if err != nil {
		t.Fatal(err)
	}
	impersonator, err := cp.CreateServiceAccount(t.Context(), "agent", "impersonator")
	if err != nil {
		t.Fatal(err)
	}
	admin := start(t, Config{REST: cp.RESTConfig()})
	for path, object := range clusterRBAC {
		create(t, admin, "/apis/rbac.authorization.k8s.io/v1/"+path, object)
	}
	create(t, admin, "/apis/rbac.authorization.k8s.io/v1/clusterroles",
		`{"metadata":{"name":"job"},"rules":[{"apiGroups":[""],"resources":["namespaces"],"verbs":["list"]}]}`)
	create(t, admin, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
		`{"metadata":{"name":"job"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"job"},
		"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"gitlab:ci_job"}]}`)
	cfg := cp.RESTConfig()
	cfg.BearerToken = agent
	certificate, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return fakeAgent{certificate: certificate, rest: cfg, account: "agent/impersonator", token: impersonator}
}

func post(t *testing.T, path, object string) *http.Request {
	t.Helper()
	req := get(t, path, "Content-Type", "application/json", "Accept", "application/json")
	req.Method, req.Body, req.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(object)), int64(len(object))
	return req
}

func create(t *testing.T, c *Client, path, object string) {
	t.Helper()
	if resp, got := body(t, c, post(t, path, object), nil); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, got)
	}
}

// userInfo is who the API server says a request is.
type userInfo struct {
	Username string
	UID      string
	Groups   []string
	Extra    map[string][]string
}

func whoAmI(t *testing.T, c *Client, extra *anypb.Any, header ...string) userInfo {
	t.Helper()
	req := post(t, "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	_, got := body(t, c, req, extra)
	var review struct{ Status struct{ UserInfo userInfo } }
	if err := json.Unmarshal([]byte(got), &review); err != nil {
		t.Fatal(err, got)
	}
	return review.Status.UserInfo
}

var job = &kubernetesapi.ImpersonationConfig{
	Username: "gitlab:ci_job:1", Groups: []string{"gitlab:ci_job", "gitlab:group:5", "gitlab:group:2"}, Uid: "u-1",
	Extra: []*kubernetesapi.ExtraKeyVal{{Key: "agent.gitlab.com/id", Val: []string{"7"}}},
}

// A real API server, an agent account that may not impersonate, and an impersonation account that may do nothing else.
func TestImpersonationServiceAccount_RealCluster(t *testing.T) {
	agent := startCluster(t)
	const namespaces = "/api/v1/namespaces"

	t.Run("the agent's account may not impersonate", func(t *testing.T) {
		c := start(t, Config{REST: agent.rest})
		if resp, got := body(t, c, get(t, namespaces), identity(t, job)); resp.StatusCode != http.StatusForbidden || !strings.Contains(got, "impersonate") {
			t.Error(resp.Status, got)
		}
	})
	t.Run("the impersonation account may do nothing but impersonate", func(t *testing.T) {
		cfg := rest.CopyConfig(agent.rest)
		cfg.BearerToken = agent.token
		c := start(t, Config{REST: cfg})
		if resp, got := body(t, c, get(t, namespaces), nil); resp.StatusCode != http.StatusForbidden {
			t.Error(resp.Status, got)
		}
	})
	t.Run("a client certificate works on both paths, and never beside the account's token", func(t *testing.T) {
		own := start(t, Config{REST: agent.certificate})
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(agent.token), 0o600); err != nil {
			t.Fatal(err)
		}
		account := start(t, Config{REST: agent.certificate, ImpersonationTokenFile: path})
		for name, header := range bothPaths {
			if got := whoAmI(t, own, nil, header...).Username; got != "certified" {
				t.Errorf("%s: %s", name, got)
			}
			if got := whoAmI(t, account, identity(t, job), header...).Username; got != job.Username {
				t.Errorf("%s: %s", name, got)
			}
		}
	})
	c := start(t, Config{REST: agent.rest, ImpersonationServiceAccount: agent.account})
	t.Run("a job is itself", func(t *testing.T) {
		want := userInfo{
			Username: job.Username, UID: job.Uid, Extra: map[string][]string{"agent.gitlab.com/id": {"7"}},
			Groups: append(append([]string{}, job.Groups...), "system:authenticated"),
		}
		if diff := cmp.Diff(want, whoAmI(t, c, identity(t, job))); diff != "" {
			t.Error(diff)
		}
		if resp, got := body(t, c, get(t, namespaces), identity(t, job)); resp.StatusCode != http.StatusOK {
			t.Error(resp.Status, resp.Proto, got)
		}
	})
	t.Run("a job may not do what it was not given", func(t *testing.T) {
		resp, got := body(t, c, get(t, "/api/v1/secrets"), identity(t, job))
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(got, job.Username) {
			t.Error(resp.Status, got)
		}
	})
	t.Run("a request without identity is the agent", func(t *testing.T) {
		if got := whoAmI(t, c, nil).Username; got != "system:serviceaccount:agent:agentk" {
			t.Error(got)
		}
	})
	t.Run("a client that brings X-Remote headers is still the job", func(t *testing.T) {
		req := get(t, namespaces, "X-Remote-User", "admin", "X-Remote-Group", "system:masters")
		req.URL.Path = "/api/v1/secrets"
		if resp, _ := body(t, c, req, identity(t, job)); resp.StatusCode != http.StatusForbidden {
			t.Error(resp.Status)
		}
	})
	t.Run("an account that does not exist fails closed", func(t *testing.T) {
		c := start(t, Config{REST: agent.rest, ImpersonationServiceAccount: "agent/other"})
		if _, err := c.RoundTrip(get(t, namespaces), identity(t, job)); err == nil || !strings.Contains(err.Error(), "agent/other") {
			t.Error(err)
		}
	})
}
