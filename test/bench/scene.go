package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	authv1 "k8s.io/api/authentication/v1"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	job     = 9001
	project = "acme/shop"
	// agent is who follows a repository.
	agent = "demo"
)

// scene is a line with two agents: one in front of the real API server, one in front of the fake one.
type scene struct {
	scheme           string
	l                *line.Line
	agent, fakeAgent string

	direct, line         target // the real API server
	fakeDirect, fakeLine target // the one that costs nothing
	before               goroutines
}

// newScene starts kas and both agents. They are not the only ones in the cluster, so their names tell them apart.
func (st *stage) newScene(ctx context.Context, scheme string) (*scene, error) {
	s := &scene{scheme: scheme, agent: "real-" + scheme, fakeAgent: "fake-" + scheme}
	st.progress("starting kas and agentk, over " + scheme)
	access := line.CIAccess("{ci_job: {}}", project)
	var err error
	s.l, err = line.Start(ctx, line.Config{
		ControlPlane: st.cluster, Scheme: scheme,
		Agents: []line.Agent{
			{ID: 7, Name: s.agent, Project: "acme/infra", Config: access},
			{ID: 8, Name: s.fakeAgent, Project: "acme/infra", Config: access, Manual: true},
		},
		Jobs: []line.Job{{ID: job, Project: project}},
	})
	if err != nil {
		return nil, err
	}
	if err := s.build(ctx, st); err != nil {
		s.l.Stop()
		return nil, err
	}
	return s, nil
}

func (s *scene) build(ctx context.Context, st *stage) error {
	var err error
	if s.line, err = throughLine(s.l, s.agent); err != nil {
		return err
	}
	if s.direct, err = s.line.straight(ctx, st.cluster, s.agent); err != nil {
		return err
	}
	if err := s.startFakeAgent(ctx, st); err != nil {
		return err
	}
	// One request each: what is made once is there when goroutines are counted.
	for _, t := range []target{s.line, s.fakeLine} {
		if _, err := t.get(ctx, smallPath); err != nil {
			return err
		}
	}
	s.line.client.CloseIdleConnections()
	s.fakeLine.client.CloseIdleConnections()
	s.before, err = s.goroutines(ctx)
	return err
}

const jobsMayAll = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: bench},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
 subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "gitlab:ci_job"}]}`

// throughLine is an agent's cluster as the job reaches it.
func throughLine(l *line.Line, name string) (target, error) {
	bearer, err := l.Bearer(job, name)
	if err != nil {
		return target{}, err
	}
	return target{
		client: newClient(l.Authority.Pool), base: l.ProxyURL, header: http.Header{"Authorization": {"Bearer " + bearer}},
		authority: l.Authority.File,
	}, nil
}

// straight asks the API server itself, with the agent's account and as the identity that the job has through the line, which t
// is: the API server has the same work to do.
func (t target) straight(ctx context.Context, cluster *kube.ControlPlane, agent string) (target, error) {
	token, err := cluster.CreateServiceAccount(ctx, "gitlab-agent-"+agent, "gitlab-agent")
	if err != nil {
		return target{}, err
	}
	user, err := t.whoami(ctx)
	if err != nil {
		return target{}, err
	}
	header := http.Header{"Authorization": {"Bearer " + token}, "Impersonate-User": {user.Username}}
	for _, group := range user.Groups {
		if group != "system:authenticated" {
			header.Add("Impersonate-Group", group)
		}
	}
	for key, values := range user.Extra {
		header["Impersonate-Extra-"+strings.ReplaceAll(key, "/", "%2F")] = values
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cluster.CA)
	return target{client: newClient(pool), base: cluster.URL, header: header, authority: cluster.CAFile}, nil
}

// whoami asks through the line who the job is in the cluster.
func (t target) whoami(ctx context.Context) (authv1.UserInfo, error) {
	body := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader(body))
	if err != nil {
		return authv1.UserInfo{}, err
	}
	req.Header = t.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.client.Do(req)
	if err != nil {
		return authv1.UserInfo{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	review := authv1.SelfSubjectReview{}
	if err := json.NewDecoder(resp.Body).Decode(&review); err != nil {
		return authv1.UserInfo{}, err
	}
	if resp.StatusCode != http.StatusCreated {
		return authv1.UserInfo{}, fmt.Errorf("self subject review answered %s", resp.Status)
	}
	return review.Status.UserInfo, nil
}

// newClient speaks HTTP/1.1 on both sides, so that they differ in nothing but the line.
func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableCompression: true, MaxIdleConnsPerHost: 256, ReadBufferSize: 64 << 10,
	}}
}

func (t target) post(ctx context.Context, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = t.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// startFakeAgent starts the agent in front of the fake API server.
func (s *scene) startFakeAgent(ctx context.Context, st *stage) error {
	if st.fake == nil {
		var err error
		if st.fake, err = startFake(); err != nil {
			return err
		}
	}
	kubeconfig := filepath.Join(s.l.Dir, "fake.kubeconfig")
	content := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}],
 users: [{name: u, user: {token: none}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`, st.fake.url, st.fake.authority.File)
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		return err
	}
	err := s.l.SetAgent(s.fakeAgent, func(a *line.Agent) { a.Args = []string{"--kubeconfig", kubeconfig} })
	if err != nil {
		return err
	}
	if err := s.l.StartAgent(ctx, s.fakeAgent); err != nil {
		return err
	}
	s.fakeDirect = target{
		client: newClient(st.fake.authority.Pool), base: st.fake.url, header: s.direct.header, authority: st.fake.authority.File,
	}
	s.fakeLine, err = throughLine(s.l, s.fakeAgent)
	return err
}

// cpu is what kas and an agent have used together, in seconds.
func (s *scene) cpu(name string) (float64, error) { return cpuOf(s.l.KasPID(), s.l.AgentPID(name)) }
