package standalone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"

	"gopkg.in/yaml.v3"
)

// ErrNoToken is returned by Kubeconfig when the job's token was not given.
var ErrNoToken = errors.New("the job token is needed, since the kas configuration file holds only its SHA-256: " +
	"give it in the environment variable CI_JOB_TOKEN")

// KubeconfigOptions say whose kubeconfig to write.
type KubeconfigOptions struct {
	// JobID is the job's id in section standalone.
	JobID int64
	// Token is the job token in clear. It must be the one whose SHA-256 the job has.
	Token string
	// Server is the address of the Kubernetes API proxy. Default: kubernetes_api_url of the section.
	Server string
}

// The order of fields is the order of keys that users see in CI.
type kubeconfig struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Clusters   []kubeNamed `yaml:"clusters"`
	Users      []kubeNamed `yaml:"users"`
	Contexts   []kubeNamed `yaml:"contexts"`
}

type kubeNamed struct {
	Name    string       `yaml:"name"`
	Cluster *kubeCluster `yaml:"cluster,omitempty"`
	User    *kubeUser    `yaml:"user,omitempty"`
	Context *kubeContext `yaml:"context,omitempty"`
}

type kubeCluster struct {
	Server string `yaml:"server"`
}

type kubeUser struct {
	Token string `yaml:"token"`
}

type kubeContext struct {
	Cluster   string `yaml:"cluster"`
	Namespace string `yaml:"namespace,omitempty"`
	User      string `yaml:"user"`
}

// Kubeconfig writes the file that a CI job gets in $KUBECONFIG: one context per agent that the job may use now, none of them
// current. Of cfg only File, Parse, MaxConfigFileSize, Log and Now are used. It is an error if the job may use no agent.
func Kubeconfig(ctx context.Context, cfg Config, o KubeconfigOptions) ([]byte, error) {
	b, err := newBackend(cfg)
	if err != nil {
		return nil, err
	}
	sec := b.section.Load()
	j, err := sec.jobForKubeconfig(o)
	if err != nil {
		return nil, err
	}
	if j.expired(b.cfg.Now()) {
		return nil, fmt.Errorf("job %d: its token has expired (expires_at)", j.id)
	}
	server, err := proxyAddress(o.Server, sec.file.GetKubernetesApiUrl())
	if err != nil {
		return nil, err
	}
	grants, err := b.grants(ctx, sec, j)
	if err != nil {
		return nil, err
	}
	if len(grants) == 0 {
		return nil, fmt.Errorf("job %d may use no agent, so it gets no KUBECONFIG: no agent is registered in its project %q, and no "+
			"agent configuration that could be read names that project or a group of it under ci_access in a way that fits "+
			"the job's environment and ref", j.id, j.project.path)
	}
	return encodeKubeconfig(server, o.Token, grants)
}

func (s *section) jobForKubeconfig(o KubeconfigOptions) (*job, error) {
	j := s.jobs[o.JobID]
	if j == nil {
		return nil, fmt.Errorf("job %d is not in section standalone of the kas configuration file", o.JobID)
	}
	if o.Token == "" {
		return nil, fmt.Errorf("job %d: %w", j.id, ErrNoToken)
	}
	if s.jobsByToken[sumToken(o.Token)] != j {
		return nil, fmt.Errorf("job %d: the token given is not this job's, its SHA-256 differs from token_sha256", j.id)
	}
	return j, nil
}

func proxyAddress(given, configured string) (string, error) {
	server := given
	if server == "" {
		server = configured
	}
	if server == "" {
		return "", errors.New("the address of the Kubernetes API proxy is unknown: set kubernetes_api_url in section standalone of " +
			"the kas configuration file or give it with --server")
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return "", errors.New("the address of the Kubernetes API proxy must be an http:// or https:// URL without credentials")
	}
	return server, nil
}

func encodeKubeconfig(server, token string, grants []grant) ([]byte, error) {
	const cluster = "gitlab"
	k := kubeconfig{
		APIVersion: "v1",
		Kind:       "Config",
		Clusters:   []kubeNamed{{Name: cluster, Cluster: &kubeCluster{Server: server}}},
	}
	for _, g := range grants {
		user := fmt.Sprintf("agent:%d", g.agent.id)
		k.Users = append(k.Users, kubeNamed{Name: user, User: &kubeUser{Token: fmt.Sprintf("ci:%d:%s", g.agent.id, token)}})
		k.Contexts = append(k.Contexts, kubeNamed{
			Name:    g.agent.project.path + ":" + g.agent.name,
			Context: &kubeContext{Cluster: cluster, Namespace: g.entry.GetDefaultNamespace(), User: user},
		})
	}
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	err := enc.Encode(k)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return buf.Bytes(), nil
}
