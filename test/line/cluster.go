package line

import (
	"context"
	"fmt"
	"os"
)

const (
	account      = "gitlab-agent"
	impersonator = "gitlab-agent-impersonator"
)

// namespaceOf is the namespace an agent believes to run in. Each has one of its own.
func namespaceOf(agent string) string { return "gitlab-agent-" + agent }

// powers are the roles that agents' accounts are bound to. The names of userextras hold slashes, which resource patterns of RBAC
// cannot express: hence the star.
const powers = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: agentk-impersonate}, rules: [
  {apiGroups: [""], resources: [users, groups, serviceaccounts], verbs: [impersonate]},
  {apiGroups: [authentication.k8s.io], resources: ["*"], verbs: [impersonate]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: agentk-events}, rules: [
  {apiGroups: [""], resources: [pods], verbs: [get]},
  {apiGroups: [apps], resources: [replicasets, deployments], verbs: [get]},
  {apiGroups: [""], resources: [events], verbs: [create, patch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: agentk-take-token}, rules: [
  {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [` + impersonator + `], verbs: [create]}]}
`

// makeAgent gives an agent its token file, its account in the cluster, and a kubeconfig with that account's token.
func (l *Line) makeAgent(ctx context.Context, a *Agent) error {
	if err := os.WriteFile(l.path("tokens/"+a.Name), []byte(a.Token+"\n"), 0o600); err != nil {
		return err
	}
	if a.PodOf != "" {
		l.kubeconfigs[a.Name] = l.kubeconfigs[a.PodOf]
		return nil
	}
	cp, namespace := l.cfg.ControlPlane, namespaceOf(a.Name)
	token, err := cp.CreateServiceAccount(ctx, namespace, account)
	if err != nil {
		return err
	}
	l.clusterToken[a.Name] = token
	if l.kubeconfigs[a.Name], err = cp.KubeconfigForToken(token); err != nil {
		return err
	}
	if a.Power == TokenOnly {
		if _, err := cp.CreateServiceAccount(ctx, namespace, impersonator); err != nil {
			return err
		}
	}
	if err := cp.Apply(ctx, powers+a.bindings()); err != nil {
		return fmt.Errorf("rights in the cluster: %w", err)
	}
	return nil
}

// bindings is who of an agent's namespace gets which role.
func (a *Agent) bindings() string {
	namespace := namespaceOf(a.Name)
	cluster := func(role, account string) string {
		return fmt.Sprintf(`---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: %[1]s-%[2]s},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s},
 subjects: [{kind: ServiceAccount, name: %[3]s, namespace: %[1]s}]}
`, namespace, role, account)
	}
	local := func(role string) string {
		return fmt.Sprintf(`---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: %[2]s, namespace: %[1]s},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s},
 subjects: [{kind: ServiceAccount, name: %[3]s, namespace: %[1]s}]}
`, namespace, role, account)
	}
	var text string
	switch a.Power {
	case Impersonate:
		text = cluster("agentk-impersonate", account) + local("agentk-events")
	case TokenOnly:
		text = cluster("agentk-impersonate", impersonator) + local("agentk-take-token") + local("agentk-events")
	case None:
	}
	if a.ClusterRole != "" {
		text += cluster(a.ClusterRole, account)
	}
	return text
}
