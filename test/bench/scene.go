package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	authv1 "k8s.io/api/authentication/v1"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	bulkNamespace = "bulk"
	bulkObjects   = 50
	bulkSize      = 1_000_000
	job           = 9001
	project       = "acme/shop"
	agent         = "demo"
	fakeAgent     = "fake"
)

// scene is everything the figures are taken from.
type scene struct {
	cluster *kube.ControlPlane
	l       *line.Line
	fake    *exec.Cmd

	direct, line         target // the real API server
	fakeDirect, fakeLine target // the one that costs nothing
	// kasBefore and agentBefore are the goroutines at rest.
	kasBefore, agentBefore int
}

func newScene(ctx context.Context, progress func(string)) (*scene, error) {
	s := &scene{}
	if err := s.build(ctx, progress); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *scene) build(ctx context.Context, progress func(string)) error {
	var err error
	progress("starting etcd and kube-apiserver")
	if s.cluster, err = kube.Start(ctx, kube.Config{}); err != nil {
		return err
	}
	progress("starting kas and agentk")
	access := line.CIAccess("{ci_job: {}}", project)
	s.l, err = line.Start(ctx, line.Config{
		ControlPlane: s.cluster,
		Agents: []line.Agent{
			{ID: 7, Name: agent, Project: "acme/infra", Config: access},
			{ID: 8, Name: fakeAgent, Project: "acme/infra", Config: access, Manual: true},
		},
		Jobs: []line.Job{{ID: job, Project: project}},
	})
	if err != nil {
		return err
	}
	if err := s.cluster.Apply(ctx, jobsMayAll); err != nil {
		return err
	}
	if s.line, err = s.throughLine(agent); err != nil {
		return err
	}
	if s.direct, err = s.straight(ctx); err != nil {
		return err
	}
	progress("writing 50 MB of ConfigMaps")
	if err := s.fillBulk(ctx); err != nil {
		return err
	}
	progress("starting the fake API server and its agentk")
	if err := s.startFake(ctx); err != nil {
		return err
	}
	s.kasBefore, s.agentBefore, err = s.goroutines(ctx)
	return err
}

const jobsMayAll = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: bench},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
 subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: "gitlab:ci_job"}]}`

func (s *scene) throughLine(name string) (target, error) {
	bearer, err := s.l.Bearer(job, name)
	if err != nil {
		return target{}, err
	}
	return target{
		client: newClient(s.l.Authority.Pool), base: s.l.ProxyURL, header: http.Header{"Authorization": {"Bearer " + bearer}},
	}, nil
}

// straight asks the API server itself, with an account of the agent's power and as the identity that the job has through the
// line: the API server has the same work to do.
func (s *scene) straight(ctx context.Context) (target, error) {
	token, err := s.cluster.CreateServiceAccount(ctx, "gitlab-agent-"+agent, "gitlab-agent")
	if err != nil {
		return target{}, err
	}
	user, err := s.whoami(ctx)
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
	pool.AppendCertsFromPEM(s.cluster.CA)
	return target{client: newClient(pool), base: s.cluster.URL, header: header}, nil
}

// whoami asks through the line who the job is in the cluster.
func (s *scene) whoami(ctx context.Context) (authv1.UserInfo, error) {
	body := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.line.base+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader(body))
	if err != nil {
		return authv1.UserInfo{}, err
	}
	req.Header = s.line.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.line.client.Do(req)
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

// fillBulk writes the objects of the large list: text that looks like YAML.
func (s *scene) fillBulk(ctx context.Context) error {
	if err := s.cluster.Apply(ctx, "{apiVersion: v1, kind: Namespace, metadata: {name: "+bulkNamespace+"}}"); err != nil {
		return err
	}
	for i := range bulkObjects {
		var text bytes.Buffer
		for text.Len() < bulkSize {
			fmt.Fprintf(&text, "  - name: value-%06d\n    description: number %d of object %d\n", rand.IntN(1e6), rand.IntN(1e9), i)
		}
		object := map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "bulk-" + strconv.Itoa(i)},
			"data": map[string]string{"text": text.String()},
		}
		body, err := json.Marshal(object)
		if err != nil {
			return err
		}
		if err := s.direct.post(ctx, bulkPath, body); err != nil {
			return err
		}
	}
	return nil
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

// startFake starts this program as the fake API server and an agentk in front of it.
func (s *scene) startFake(ctx context.Context) error {
	certificate, key, err := s.l.Authority.Issue("fake-apiserver", "127.0.0.1")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.fake = exec.Command(self, fakeCommand)
	s.fake.Env = append(os.Environ(), "FAKE_CERT="+certificate, "FAKE_KEY="+key)
	s.fake.Stderr = os.Stderr
	s.fake.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.fake.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.fake.Start(); err != nil {
		return err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("fake API server: %w", err)
	}
	base := "https://" + strings.TrimSpace(address)
	kubeconfig := filepath.Join(s.l.Dir, "fake.kubeconfig")
	content := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}],
 users: [{name: u, user: {token: none}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`, base, s.l.Authority.File)
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		return err
	}
	err = s.l.SetAgent(fakeAgent, func(a *line.Agent) { a.Args = []string{"--kubeconfig", kubeconfig} })
	if err != nil {
		return err
	}
	if err := s.l.StartAgent(ctx, fakeAgent); err != nil {
		return err
	}
	s.fakeDirect = target{client: newClient(s.l.Authority.Pool), base: base, header: s.direct.header}
	s.fakeLine, err = s.throughLine(fakeAgent)
	return err
}

// goroutines reads how many both daemons have.
func (s *scene) goroutines(ctx context.Context) (kas, agentk int, err error) {
	for _, t := range []target{s.direct, s.line, s.fakeDirect, s.fakeLine} {
		t.client.CloseIdleConnections()
	}
	page, err := s.l.KasMetrics(ctx)
	if err != nil {
		return 0, 0, err
	}
	kas, err = number(page)
	if err != nil {
		return 0, 0, err
	}
	page, err = s.l.AgentMetrics(ctx, agent)
	if err != nil {
		return 0, 0, err
	}
	agentk, err = number(page)
	return kas, agentk, err
}

func number(page string) (int, error) {
	text, ok := line.Metric(page, "go_goroutines")
	if !ok {
		return 0, errors.New("no metric go_goroutines")
	}
	n, err := strconv.ParseFloat(text, 64)
	return int(n), err
}

// settleLimit is how long surplus streams may take to be retired: a minute parked, and a scan after that.
const settleLimit = 3 * time.Minute

// settled waits until both daemons are as they were; a run that leaks has failed.
func (s *scene) settled(ctx context.Context) error {
	const slack = 10
	deadline := time.Now().Add(settleLimit)
	for {
		kas, agentk, err := s.goroutines(ctx)
		if err != nil {
			return err
		}
		if kas <= s.kasBefore+slack && agentk <= s.agentBefore+slack {
			fmt.Printf("goroutines before and after: kas %d and %d, agentk %d and %d\n", s.kasBefore, kas, s.agentBefore, agentk)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("leak: kas had %d goroutines and has %d, agentk had %d and has %d", s.kasBefore, kas, s.agentBefore, agentk)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (s *scene) close() {
	if s.l != nil {
		s.l.Stop()
	}
	if s.fake != nil && s.fake.Process != nil {
		_ = s.fake.Process.Kill()
		_ = s.fake.Wait()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
}
