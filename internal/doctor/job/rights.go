package job

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
)

// identity asks the cluster who the job is there.
func (w *way) identity(ctx context.Context) doctor.Outcome {
	user, err := w.client.Self(ctx)
	if err != nil {
		return doctor.Skip("the cluster does not tell: %v", err)
	}
	w.groups = user.Groups
	shown := slices.DeleteFunc(slices.Clone(user.Groups), func(g string) bool { return strings.HasPrefix(g, "system:") })
	if len(shown) == 0 {
		return doctor.Good("%s", user.Name)
	}
	return doctor.Good("%s, in %s", user.Name, list(shown))
}

// everybodys are the groups of APIs that every known user may ask about himself.
var everybodys = []string{"authorization.k8s.io", "authentication.k8s.io"}

// rights asks what the job may do.
func (w *way) rights(ctx context.Context) doctor.Outcome {
	if len(w.doctor.cfg.Wanted) > 0 {
		return w.wanted(ctx)
	}
	rules, err := w.client.Rules(ctx, w.namespace)
	if err != nil {
		return doctor.Skip("the cluster does not tell: %v", err)
	}
	w.rules = slices.DeleteFunc(rules, func(r kubeapi.Rule) bool {
		return !slices.ContainsFunc(r.APIGroups, func(g string) bool { return !slices.Contains(everybodys, g) })
	})
	if len(w.rules) == 0 {
		return doctor.Bad("job-rights", "the job may do nothing in namespace %s", w.namespace).WithFix("%s", w.grant())
	}
	return doctor.Good("in namespace %s: %s", w.namespace, describe(w.rules))
}

// wanted asks for the actions that were named.
func (w *way) wanted(ctx context.Context) doctor.Outcome {
	var denied []string
	for _, what := range w.doctor.cfg.Wanted {
		if what.Namespace == "" {
			what.Namespace = w.namespace
		}
		allowed, err := w.client.Can(ctx, what)
		if err != nil {
			return doctor.Skip("the cluster does not tell: %v", err)
		}
		if !allowed {
			denied = append(denied, what.String())
		}
	}
	if len(denied) > 0 {
		return doctor.Bad("job-rights", "the job may not %s in namespace %s", strings.Join(denied, ", not "), w.namespace).WithFix("%s", w.grant())
	}
	return doctor.Good("all that was asked for is allowed in namespace %s", w.namespace)
}

// grant is a command that gives the job rights, by the group that fits best.
func (w *way) grant() string {
	for _, prefix := range []string{"gitlab:project:", "gitlab:project_role:", "gitlab:"} {
		for _, g := range w.groups {
			if strings.HasPrefix(g, prefix) {
				return fmt.Sprintf("Bind a role to one of the job's groups, as an administrator of the cluster: "+
					"`kubectl -n %s create rolebinding gitlab-jobs --clusterrole=edit --group=%s`", w.namespace, g)
			}
		}
	}
	return "Give rights to the agent's ServiceAccount, as which the job acts (access_as: agent), or let it act as itself (access_as: ci_job) and bind a role to the group gitlab:project:ID."
}

// describe says in short what rules allow.
func describe(rules []kubeapi.Rule) string {
	var texts []string
	for _, r := range rules {
		text := strings.Join(r.Verbs, ",") + " " + strings.Join(r.Resources, ",")
		if strings.Contains(text, "*") && slices.Contains(r.Resources, "*") && slices.Contains(r.Verbs, "*") {
			return "everything"
		}
		texts = append(texts, text)
	}
	const shown = 4
	if len(texts) > shown {
		return fmt.Sprintf("%s and %d more rules", strings.Join(texts[:shown], "; "), len(texts)-shown)
	}
	return strings.Join(texts, "; ")
}

// watchable are resources of which a watch shows whether upgraded connections pass.
var watchable = []string{"pods", "configmaps", "services", "secrets", "events"}

// streams asks for a watch over WebSocket: where such a request passes, those of exec, attach and port-forward do, and nothing is changed.
// Without an upgrade it would be a plain watch, with an answer of 200.
func (w *way) streams(ctx context.Context) doctor.Outcome {
	resource := w.watches()
	if resource == "" {
		return doctor.Skip("the job may watch nothing with which it could be tried")
	}
	if w.rest.ExecProvider != nil {
		return doctor.Skip("only tried with a token in the kubeconfig")
	}
	trust, err := rest.TLSConfigFor(w.rest)
	if err != nil {
		return doctor.Bad("kubeconfig-overridden", "%v", err)
	}
	at := *w.target.URL
	at.Scheme = "wss"
	at.Path = fmt.Sprintf("%s/api/v1/namespaces/%s/%s", strings.TrimSuffix(at.Path, "/"), w.namespace, resource)
	at.RawQuery = "watch=1&timeoutSeconds=1"
	dialer := websocket.Dialer{TLSClientConfig: trust, Proxy: http.ProxyFromEnvironment}
	conn, answer, err := dialer.DialContext(ctx, at.String(), http.Header{"Authorization": {"Bearer " + w.rest.BearerToken}})
	switch {
	case err == nil:
		_ = conn.Close()
		return doctor.Good("upgraded connections pass")
	case answer == nil:
		return doctor.Bad("streams-broken", "upgrade: %v", err)
	}
	body, err := io.ReadAll(answer.Body) // the library has it in memory
	_ = answer.Body.Close()
	switch {
	case err == nil && answer.StatusCode == http.StatusForbidden && len(body) == 0:
		// The API server upgrades watches only for clients with an Origin, which kas takes for browsers: this refusal is its own.
		return doctor.Good("requests for an upgrade arrive at the cluster")
	case answer.StatusCode == http.StatusForbidden:
		return doctor.Skip("the job may not watch %s after all", resource)
	}
	return doctor.Bad("streams-broken", "the cluster, or something on the way, answered %d to an upgrade", answer.StatusCode)
}

// watches is a resource that the job may watch.
func (w *way) watches() string {
	for _, resource := range watchable {
		for _, r := range w.rules {
			if (slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "*")) &&
				(slices.Contains(r.Verbs, "watch") || slices.Contains(r.Verbs, "*")) &&
				(slices.Contains(r.Resources, resource) || slices.Contains(r.Resources, "*")) {
				return resource
			}
		}
	}
	return ""
}
