package railsapi

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

const (
	// alarmEvery is how often one agent is complained about in the log.
	alarmEvery = time.Hour
	// maxAlarms bounds the agents of which the last complaint is remembered.
	maxAlarms = 10_000
)

// place is what tells one installation of an agent from another. Agents announce no identity of their cluster; its version stands
// in for one. Two installations that agree in everything here look like replicas of one.
type place struct{ namespace, deployment, cluster string }

// Installations names the places where the pods of one agent run, sorted; more than one means that a token is used twice. Pods of
// one Deployment or StatefulSet count as one place, also while an update replaces them. While a cluster is updated its pods may
// disagree on its version until they have all registered again.
func Installations(pods []*agenttracker.ConnectedAgentInfo) []string {
	var places []place
	for _, pod := range pods {
		meta := pod.GetAgentMeta()
		if meta.GetPodName() == "" {
			continue // not in a cluster, or a peer that does not say
		}
		p := place{namespace: meta.GetPodNamespace(), deployment: owner(meta.GetPodName())}
		if kube := meta.GetKubernetesVersion(); kube.GetGitVersion() != "" {
			p.cluster = strings.TrimSpace(kube.GetGitVersion() + " " + kube.GetPlatform())
		}
		if !slices.Contains(places, p) {
			places = append(places, p)
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.deployment, b.deployment), cmp.Compare(a.cluster, b.cluster))
	})
	var names []string
	for i, p := range places {
		next := i + 1
		if p.cluster == "" && next < len(places) && places[next].namespace == p.namespace && places[next].deployment == p.deployment {
			continue // a pod that could not ask its cluster yet; its neighbour could
		}
		name := fmt.Sprintf("%s in namespace %s", p.deployment, p.namespace)
		if p.cluster != "" {
			name += " on Kubernetes " + p.cluster
		}
		names = append(names, name)
	}
	return names
}

// generated finds what Kubernetes appends to the name of a Deployment (revision and suffix) or StatefulSet (a number) for a pod.
var generated = regexp.MustCompile(`(?:-[bcdfghjklmnpqrstvwxz2456789]{1,10}-[bcdfghjklmnpqrstvwxz2456789]{5}|-\d+)$`)

// owner is a pod's name without what is generated.
func owner(pod string) string { return generated.ReplaceAllString(pod, "") }

// InstallationAlarm writes to the log that an agent's token is used by several installations.
type InstallationAlarm struct {
	agents Agents
	log    *zap.Logger
	now    func() time.Time

	// mu guards raised: when an agent was last complained about.
	mu     sync.Mutex
	raised map[int64]time.Time
}

// NewInstallationAlarm returns an alarm over the connections that agents knows.
func NewInstallationAlarm(agents Agents, log *zap.Logger) *InstallationAlarm {
	return &InstallationAlarm{agents: agents, log: log, now: time.Now, raised: map[int64]time.Time{}}
}

// Check looks at an agent that has just registered. It costs one question to the store, whose failure the registration has
// already met, or the next one will.
func (a *InstallationAlarm) Check(ctx context.Context, agentID int64) {
	pods, err := a.agents.AgentsByID(ctx, agentID)
	if err != nil {
		return
	}
	where := Installations(pods)
	if len(where) < 2 || !a.raise(agentID) {
		return
	}
	a.log.Warn("One agent is installed more than once: requests go to any of its installations. Register an agent of its own for each",
		zap.Int64("agent_id", agentID), zap.Strings("installations", where))
}

func (a *InstallationAlarm) raise(agentID int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if last, ok := a.raised[agentID]; ok && now.Sub(last) < alarmEvery {
		return false
	}
	if len(a.raised) >= maxAlarms {
		clear(a.raised) // saying something again is better than growing
	}
	a.raised[agentID] = now
	return true
}
