package charts

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// account is a ServiceAccount as the API server knows it.
type account struct {
	namespace, name string
	client          kubernetes.Interface
}

// as returns a client with a token of a ServiceAccount.
func as(t *testing.T, ctx context.Context, namespace, name string) account {
	t.Helper()
	token, err := cluster.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(cluster.RESTConfig())
	config.BearerToken = token.Status.Token
	return account{namespace: namespace, name: name, client: client(t, config)}
}

func client(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// can asks the API server whether the account may do something: "verb group/resource[/subresource] [name]" in a namespace.
func (a account) can(t *testing.T, ctx context.Context, namespace, action string) bool {
	t.Helper()
	words := append(strings.Fields(action), "")
	group, rest, _ := strings.Cut(words[1], "/")
	resource, sub, _ := strings.Cut(rest, "/")
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: words[0], Group: group, Resource: resource, Subresource: sub, Name: words[2],
		},
	}}
	review, err := a.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// rules returns everything that the account may do with resources in a namespace, besides what every account may ask about itself.
func (a account) rules(t *testing.T, ctx context.Context, namespace string) []string {
	t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	review, err := a.client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range review.Status.ResourceRules {
		if strings.HasPrefix(r.Resources[0], "selfsubject") {
			continue
		}
		slices.Sort(r.Verbs)
		all = append(all, strings.TrimSpace(strings.Join(r.Verbs, ",")+" "+r.APIGroups[0]+"/"+strings.Join(r.Resources, ",")+" "+strings.Join(r.ResourceNames, ",")))
	}
	slices.SortFunc(all, cmp.Compare)
	return all
}

// installed makes what the chart renders, in a namespace of its own.
func installed(t *testing.T, values string) (namespace string) {
	t.Helper()
	namespace = cluster.Namespace(t)
	manifest := New(t, cluster, agentChart).Template(t, "a", namespace, "fullnameOverride: agent\nconfig: {token: agent-token}\n"+values)
	var rights []Object
	for _, o := range Objects(t, manifest) {
		if kind := o.Kind(); kind == "ServiceAccount" || strings.Contains(kind, "Role") {
			rights = append(rights, o)
		}
	}
	cluster.Create(t, manifestOf(t, rights))
	inForce(t, namespace)
	return namespace
}

// inForce waits until the API server goes by all rights that were given so far: it hears of them a moment after it has stored them, and
// of each kind in order. The witness is given some of each kind.
func inForce(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	witness := "witness-of-" + namespace
	cluster.Create(t, strings.NewReplacer("WITNESS", witness, "NAMESPACE", namespace).Replace(`
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: WITNESS}, rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: WITNESS},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: WITNESS}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: WITNESS}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: WITNESS, namespace: NAMESPACE}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: WITNESS, namespace: NAMESPACE},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: WITNESS}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: WITNESS}]}
`))
	for _, resource := range []string{"nodes", "pods"} {
		eventually(t, ctx, "rights that are in force", func() bool {
			review, err := cluster.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{User: witness, ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Verb: "get", Resource: resource,
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return review.Status.Allowed
		})
	}
}

// ownRights are the agent's in its own namespace, whatever the profile.
var ownRights = []string{
	"create /serviceaccounts/token agent-impersonator",
	"create,delete,get,list,patch,update /configmaps",
	"create,get,update coordination.k8s.io/leases",
	"create,patch /events",
	"get /pods",
	"get apps/replicasets",
}

var impersonation = []string{"impersonate /users,groups", "impersonate authentication.k8s.io/*"}

func TestAgentRights_ImpersonateOnly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	namespace, elsewhere := installed(t, "rbac: {profile: impersonate-only}"), cluster.Namespace(t)
	agent, impersonator := as(t, ctx, namespace, "agent"), as(t, ctx, namespace, "agent-impersonator")

	for name, tc := range map[string]struct{ got, want []string }{
		"agent at home":          {agent.rules(t, ctx, namespace), ownRights},
		"agent elsewhere":        {agent.rules(t, ctx, elsewhere), nil},
		"impersonator at home":   {impersonator.rules(t, ctx, namespace), impersonation},
		"impersonator elsewhere": {impersonator.rules(t, ctx, elsewhere), impersonation},
	} {
		if diff := gocmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	for action, want := range map[string]bool{
		"create /serviceaccounts/token agent-impersonator": true,
		"create /serviceaccounts/token agent":              false,
		"create /serviceaccounts/token default":            false,
		"create /serviceaccounts/token":                    false,
		"create /serviceaccounts":                          false,
		"impersonate /users jane":                          false,
		"impersonate /groups system:masters":               false,
		"impersonate /serviceaccounts agent-impersonator":  false,

		"get /secrets": false,
		"create /pods": false,
		"create rbac.authorization.k8s.io/rolebindings": false,
		"update apps/deployments":                       false,
	} {
		if got := agent.can(t, ctx, namespace, action); got != want {
			t.Errorf("agent may %s: %v, want %v", action, got, want)
		}
	}
	if agent.can(t, ctx, elsewhere, "create /serviceaccounts/token agent-impersonator") {
		t.Error("agent may have tokens of an account of the same name elsewhere")
	}
}

// What the rights are for: the agent gets the token, and with it, and only with it, becomes somebody else.
func TestAgentRights_InUse(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	namespace := installed(t, "rbac: {profile: impersonate-only}")
	agent := as(t, ctx, namespace, "agent")
	accounts := agent.client.CoreV1().ServiceAccounts(namespace)
	token, err := accounts.CreateToken(ctx, "agent-impersonator", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.CreateToken(ctx, "agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token of the agent's own account: %v, want it forbidden", err)
	}

	config := rest.AnonymousClientConfig(cluster.RESTConfig())
	config.BearerToken = token.Status.Token
	if _, err := client(t, config).CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a request that lost its identity: %v, want it forbidden", err)
	}
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "gitlab:ci_job:1", Groups: []string{"gitlab:project:42"}, UID: "u", Extra: map[string][]string{"agent.gitlab.com/id": {"7"}},
	}
	who, err := client(t, config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "gitlab:ci_job:1" || who.Status.UserInfo.UID != "u" {
		t.Errorf("a job is %v, %v", who, err)
	}

	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "agent-7-lock", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: "agent-v2", UID: "0a8c9c4e-6d2b-4c1e-9f59-2f3c2d1e4b5a"},
	}}}
	if _, err := agent.client.CoordinationV1().Leases(namespace).Create(ctx, lease, metav1.CreateOptions{}); err != nil {
		t.Errorf("a Lease that the Deployment owns: %v", err)
	}
}

func TestAgentRights_Namespaces(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	first, second, other := cluster.Namespace(t), cluster.Namespace(t), cluster.Namespace(t)
	agent := as(t, ctx, installed(t, "rbac: {profile: {namespaces: ["+first+", "+second+"]}}"), "agent")
	for namespace, want := range map[string]bool{first: true, second: true, other: false, agent.namespace: false, "": false} {
		if got := agent.can(t, ctx, namespace, "create apps/deployments"); got != want {
			t.Errorf("agent may create Deployments in %q: %v, want %v", namespace, got, want)
		}
	}
	if agent.can(t, ctx, "", "impersonate /users jane") || agent.can(t, ctx, first, "create /resourcequotas") {
		t.Error("agent may more than the namespace's administrator")
	}
}

func TestAgentRights_Others(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for name, tc := range map[string]struct {
		values string
		can    map[string]bool
	}{
		"cluster-admin": {"", map[string]bool{"delete /nodes": true}},
		"existing role": {"rbac: {useExistingRole: view}", map[string]bool{"list apps/deployments": true, "get /secrets": false, "impersonate /users jane": false}},
		"own account":   {"rbac: {profile: impersonate-only, impersonationAccount: {create: false}}", map[string]bool{"impersonate /users jane": true, "list /pods": false}},
		"another's account": {
			"rbac: {profile: impersonate-only, impersonationAccount: {create: false, name: jobs}}",
			map[string]bool{"create /serviceaccounts/token jobs": true, "impersonate /users jane": false},
		},
		"nothing": {"rbac: {create: false}", map[string]bool{"get /pods": false, "create coordination.k8s.io/leases": false}},
	} {
		t.Run(name, func(t *testing.T) {
			agent := as(t, ctx, installed(t, tc.values), "agent")
			for action, want := range tc.can {
				if got := agent.can(t, ctx, agent.namespace, action); got != want {
					t.Errorf("agent may %s: %v, want %v", action, got, want)
				}
			}
		})
	}
}

// Whoever administers namespaces, and nothing else of the cluster, can install the agent for them.
func TestAgentRights_InstalledByNamespaceAdministrator(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	home, work, other := cluster.Namespace(t), cluster.Namespace(t), cluster.Namespace(t)
	for _, namespace := range []string{home, work} {
		if _, err := cluster.Kubectl(ctx, "create", "rolebinding", "jane", "--clusterrole=admin", "--user=jane-"+home, "--namespace", namespace); err != nil {
			t.Fatal(err)
		}
	}
	jane, err := cluster.KubeconfigFor("jane-" + home)
	if err != nil {
		t.Fatal(err)
	}
	chart := New(t, cluster, agentChart)
	for name, tc := range map[string]struct {
		profile string
		works   bool
	}{
		"namespaces of hers":        {"{namespaces: [" + work + "]}", true},
		"another's namespace":       {"{namespaces: [" + work + ", " + other + "]}", false},
		"the right to be anybody":   {"impersonate-only", false},
		"the rights to do anything": {"cluster-admin", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, err := chart.Helm(t, "config: {token: a}\nrbac: {profile: "+tc.profile+"}", "install", "agent", chart.Dir,
				"--namespace", home, "--values", "-", "--kubeconfig", jane)
			if works := err == nil; works != tc.works {
				t.Fatalf("works: %v, want %v: %s", works, tc.works, stderr)
			}
			if !tc.works && !strings.Contains(stderr, "forbidden") {
				t.Errorf("fails for another reason: %s", stderr)
			}
			if out, stderr, err := chart.Helm(t, "", "uninstall", "agent", "--namespace", home); err != nil && tc.works {
				t.Errorf("helm uninstall: %v\n%s%s", err, out, stderr)
			}
		})
	}
}
