package gitlab

import (
	"bytes"
	"fmt"

	"gopkg.in/yaml.v3"
)

// The order of fields is that of the keys in the file.
type kubeconfig struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Clusters   []kubeNamed `yaml:"clusters"`
	Users      []kubeNamed `yaml:"users"`
	Contexts   []kubeNamed `yaml:"contexts"`
}

type kubeNamed struct {
	Name    string            `yaml:"name"`
	Cluster map[string]string `yaml:"cluster,omitempty"`
	User    map[string]string `yaml:"user,omitempty"`
	Context map[string]string `yaml:"context,omitempty"`
}

// Kubeconfig is the content of the variable KUBECONFIG of a job; empty: it has none, as it may use no agent.
func (g *GitLab) Kubeconfig(jobID int64) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.db.jobs[jobID]
	if j == nil {
		return "", fmt.Errorf("job %d: %w", jobID, ErrNotFound)
	}
	grants := g.grants(j)
	if len(grants) == 0 {
		return "", nil
	}
	const cluster = "gitlab"
	file := kubeconfig{
		APIVersion: "v1", Kind: "Config",
		Clusters: []kubeNamed{{Name: cluster, Cluster: map[string]string{"server": g.settings.Kas.proxyURL()}}},
	}
	for _, grant := range grants {
		a := grant.agent
		user := fmt.Sprintf("agent:%d", a.ID)
		context := map[string]string{"cluster": cluster, "user": user}
		if namespace, _ := grant.config["default_namespace"].(string); namespace != "" {
			context["namespace"] = namespace
		}
		file.Users = append(file.Users, kubeNamed{Name: user, User: map[string]string{"token": fmt.Sprintf("ci:%d:%s", a.ID, j.Token)}})
		file.Contexts = append(file.Contexts, kubeNamed{Name: a.project.Path + ":" + a.name, Context: context})
	}
	var content bytes.Buffer
	encoder := yaml.NewEncoder(&content)
	encoder.SetIndent(2)
	err := encoder.Encode(file)
	return content.String(), err
}
