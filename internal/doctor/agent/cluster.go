package agent

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
)

// clusterChecks are those of the agent's account in its cluster.
func (d *Doctor) clusterChecks() []doctor.Check {
	return []doctor.Check{
		{ID: "cluster", Name: "Kubernetes API", Run: d.clusterVersion},
		{ID: "impersonation", Name: "impersonation", Needs: []string{"cluster"}, Run: d.impersonation},
		{ID: "lease", Name: "Leases", Needs: []string{"cluster"}, Run: d.lease},
	}
}

// clusterVersion reaches the API server and asks who the agent is there.
func (d *Doctor) clusterVersion(ctx context.Context) doctor.Outcome {
	switch {
	case d.cfg.ClusterError != nil:
		return doctor.Bad("cluster-unreachable", "%v", d.cfg.ClusterError)
	case d.cfg.REST == nil:
		return doctor.Skip("%s", d.cfg.NoCluster)
	}
	var err error
	if d.cluster, err = kubeapi.New(d.cfg.REST); err != nil {
		return doctor.Bad("cluster-unreachable", "%v", err)
	}
	a, err := d.cluster.Do(ctx, "/version", nil)
	if err != nil {
		return clusterTrouble(d.cluster.Base().Host, err)
	}
	if a.Code != http.StatusOK || a.Version() == "" {
		return d.clusterAnswer(a)
	}
	// Everybody may ask for the version, nobody without a name who he is.
	user, err := d.cluster.Self(ctx)
	if err != nil {
		return doctor.Bad("cluster-credentials", "%s: %v", d.cluster.Base().Host, err)
	}
	if user.Name == "system:anonymous" {
		return doctor.Bad("cluster-credentials", "%s takes the agent for nobody", d.cluster.Base().Host)
	}
	return doctor.Good("%s at %s, as %s", a.Version(), d.cluster.Base().Host, user.Name)
}

func (d *Doctor) clusterAnswer(a *kubeapi.Answer) doctor.Outcome {
	if a.Code == http.StatusUnauthorized {
		return doctor.Bad("cluster-credentials", "%s answered 401: %s", d.cluster.Base().Host, a.Message())
	}
	return doctor.Bad("cluster-unreachable", "%s answered %d: %s", d.cluster.Base().Host, a.Code, a.Message())
}

// clusterTrouble says why there is no answer.
func clusterTrouble(host string, err error) doctor.Outcome {
	if errors.Is(err, context.DeadlineExceeded) {
		return doctor.Bad("cluster-unreachable", "%s did not answer in time", host)
	}
	o := reach.Explain("Kubernetes API server", host, err)
	o.Cause = "cluster-unreachable"
	return o
}

// impersonated are the kinds of identities that access_as makes, with what needs them.
var impersonated = []kubeapi.Attributes{
	{Verb: "impersonate", Resource: "users"},
	{Verb: "impersonate", Resource: "groups"},
	{Verb: "impersonate", Group: "authentication.k8s.io", Resource: "userextras", Subresource: "agent.gitlab.com/id"},
}

// impersonation asks whether the agent, or the account in its place, may become somebody else.
func (d *Doctor) impersonation(ctx context.Context) doctor.Outcome {
	if d.cfg.ImpersonationServiceAccount != "" {
		return d.impersonationToken(ctx)
	}
	client := d.cluster
	if file := d.cfg.ImpersonationTokenFile; file != "" {
		other := rest.AnonymousClientConfig(d.cfg.REST)
		other.BearerTokenFile = file
		var err error
		if client, err = kubeapi.New(other); err != nil {
			return doctor.Bad("impersonation-token", "%v", err)
		}
		defer client.Close()
	}
	var missing []string
	for _, what := range impersonated {
		allowed, err := client.Can(ctx, what)
		if err != nil {
			return clusterTrouble(d.cluster.Base().Host, err)
		}
		if !allowed {
			missing = append(missing, what.Resource)
		}
	}
	used, known := impersonates(d.configuration)
	switch {
	case len(missing) == 0:
		return doctor.Good("the agent may impersonate users, groups and what is known of a job")
	case known && !used:
		return doctor.Doubt("impersonate", "the agent may not impersonate %s; its ci_access needs it nowhere, access_as: user of user_access would",
			strings.Join(missing, ", "))
	default:
		return doctor.Bad("impersonate", "the agent may not impersonate %s", strings.Join(missing, ", "))
	}
}

// impersonationToken asks whether the agent may take tokens for the account that impersonates.
func (d *Doctor) impersonationToken(ctx context.Context) doctor.Outcome {
	account := d.cfg.ImpersonationServiceAccount
	namespace, name, _ := strings.Cut(account, "/")
	allowed, err := d.cluster.Can(ctx, kubeapi.Attributes{
		Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: namespace, Name: name,
	})
	switch {
	case err != nil:
		return clusterTrouble(d.cluster.Base().Host, err)
	case !allowed:
		return doctor.Bad("impersonation-token", "the agent may not create tokens for %s", account)
	default:
		return doctor.Good("done by %s, for which the agent may create tokens", account)
	}
}

// impersonates says whether an entry of ci_access has an identity of its own; known: there is a configuration.
func impersonates(c *agentcfg.AgentConfiguration) (used, known bool) {
	own := func(as *agentcfg.CiAccessAsCF) bool { return as.GetCiJob() != nil || as.GetImpersonate() != nil }
	access := c.GetCiAccess()
	for _, p := range access.GetProjects() {
		used = used || own(p.GetAccessAs())
	}
	for _, g := range access.GetGroups() {
		used = used || own(g.GetAccessAs())
	}
	return used || own(access.GetInstance().GetAccessAs()), c != nil
}

// lease asks for what the election of a leader needs.
func (d *Doctor) lease(ctx context.Context) doctor.Outcome {
	var missing []string
	for _, verb := range []string{"get", "create", "update"} {
		allowed, err := d.cluster.Can(ctx, kubeapi.Attributes{
			Verb: verb, Group: "coordination.k8s.io", Resource: "leases", Namespace: d.cfg.Namespace,
		})
		if err != nil {
			return clusterTrouble(d.cluster.Base().Host, err)
		}
		if !allowed {
			missing = append(missing, verb)
		}
	}
	if len(missing) > 0 {
		return doctor.Doubt("lease", "the agent may not %s leases in namespace %s", strings.Join(missing, ", "), d.cfg.Namespace)
	}
	return doctor.Good("the agent may use them in namespace %s", d.cfg.Namespace)
}
