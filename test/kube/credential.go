package kube

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// writeKeys makes the certificate authority and everything it signs for the cluster's own parts.
func (cp *ControlPlane) writeKeys() error {
	var err error
	if cp.authority, err = newAuthority(); err != nil {
		return err
	}
	cp.CA, cp.CAFile = cp.authority.pem, filepath.Join(cp.Dir, "pki", "ca.crt")
	caKey, err := cp.authority.privateKey()
	if err != nil {
		return err
	}
	signing, err := newSigningKey()
	if err != nil {
		return err
	}
	hosts := []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"127.0.0.1", apiServiceIP,
	}
	if cp.cfg.Host != "" {
		hosts = append(hosts, cp.cfg.Host)
	}
	server, err := cp.authority.issue("kube-apiserver", nil, hosts...)
	if err != nil {
		return err
	}
	kubelet, err := cp.authority.issue("kube-apiserver-kubelet-client", []string{"system:masters"})
	if err != nil {
		return err
	}
	for name, pair := range map[string]keyPair{
		"ca": {cert: cp.CA, key: caKey}, "sa": signing, "apiserver": server, "apiserver-kubelet": kubelet,
	} {
		if err := cp.writePair(name, pair); err != nil {
			return err
		}
	}
	return cp.writeComponentCredentials()
}

// writeComponentCredentials makes the credentials of the administrator, the controllers and the scheduler.
func (cp *ControlPlane) writeComponentCredentials() error {
	cp.AdminToken = rand.Text()
	line := cp.AdminToken + ",token-admin,token-admin,\"system:masters\"\n"
	if err := os.WriteFile(filepath.Join(cp.Dir, "pki", "tokens.csv"), []byte(line), 0o600); err != nil {
		return err
	}
	cp.AdminKubeconfig = cp.componentKubeconfig("admin")
	for name, user := range map[string]string{
		"admin": "admin", "controller-manager": "system:kube-controller-manager", "scheduler": "system:kube-scheduler",
	} {
		var groups []string
		if name == "admin" {
			groups = []string{"system:masters"}
		}
		if err := cp.writeUser(cp.componentKubeconfig(name), cp.URL, user, groups); err != nil {
			return err
		}
	}
	return nil
}

func (cp *ControlPlane) writePair(name string, pair keyPair) error {
	base := filepath.Join(cp.Dir, "pki", name)
	if err := os.WriteFile(base+".crt", pair.cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(base+".key", pair.key, 0o600)
}

// RESTConfig is the administrator's way in for client-go.
func (cp *ControlPlane) RESTConfig() *rest.Config {
	return &rest.Config{
		Host: cp.URL, BearerToken: cp.AdminToken, TLSClientConfig: rest.TLSClientConfig{CAData: cp.CA},
	}
}

// KubeconfigFor returns the path of a kubeconfig with a client certificate for that user and groups. The API server trusts it; what it
// may do is a matter of RBAC (the group system:masters may do all).
func (cp *ControlPlane) KubeconfigFor(user string, groups ...string) (string, error) {
	path, err := cp.newKubeconfig()
	if err != nil {
		return "", err
	}
	return path, cp.writeUser(path, cp.URL, user, groups)
}

// KubeconfigForToken returns the path of a kubeconfig that sends a bearer token.
func (cp *ControlPlane) KubeconfigForToken(token string) (string, error) {
	path, err := cp.newKubeconfig()
	if err != nil {
		return "", err
	}
	return path, cp.writeKubeconfig(path, cp.URL, &clientcmdapi.AuthInfo{Token: token})
}

func (cp *ControlPlane) newKubeconfig() (string, error) {
	file, err := os.CreateTemp(filepath.Join(cp.Dir, "kubeconfig"), "user-*.kubeconfig")
	if err != nil {
		return "", fmt.Errorf("kubeconfig: %w", err)
	}
	return file.Name(), file.Close()
}

func (cp *ControlPlane) writeUser(path, server, user string, groups []string) error {
	pair, err := cp.authority.issue(user, groups)
	if err != nil {
		return err
	}
	auth := &clientcmdapi.AuthInfo{ClientCertificateData: pair.cert, ClientKeyData: pair.key}
	return cp.writeKubeconfig(path, server, auth)
}

func (cp *ControlPlane) writeKubeconfig(path, server string, auth *clientcmdapi.AuthInfo) error {
	const name = "kc"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: cp.CA}
	config.AuthInfos[name] = auth
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("kubeconfig %s: %w", strings.TrimPrefix(path, cp.Dir), err)
	}
	return nil
}
