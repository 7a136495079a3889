package child

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// podToken is where a pod finds the token of its service account.
const podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Access is how the engine reaches the API server.
type Access struct {
	// Kubeconfig is a file's content; empty: as pods do.
	Kubeconfig []byte
	// Environment is what pods know of it.
	Environment []string
	// Secrets are the credentials inside.
	Secrets []string
}

// NewAccess hands on agentk's own way to the API server. Credentials that a program has to be run for cannot be handed on.
func NewAccess(cfg *rest.Config, getenv func(string) string) (Access, error) {
	if cfg.ExecProvider != nil || cfg.AuthProvider != nil {
		return Access{}, errors.New("the GitOps engine runs no program for its credentials: give agentk a token, a certificate or a service account")
	}
	a := Access{}
	for _, secret := range []string{cfg.BearerToken, cfg.Password, string(cfg.KeyData)} {
		if secret != "" {
			a.Secrets = append(a.Secrets, secret)
		}
	}
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	inPod := host != "" && cfg.Host == "https://"+net.JoinHostPort(host, port) && cfg.BearerTokenFile == podToken
	if inPod && cfg.Impersonate.UserName == "" {
		a.Environment = []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
		return a, nil
	}
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return a, fmt.Errorf("address of the Kubernetes API server: %w", err)
	}
	proxy, err := proxyFor(cfg, server)
	if err != nil {
		return a, fmt.Errorf("proxy for the Kubernetes API server: %w", err)
	}
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{
		Server: server.String(), TLSServerName: cfg.ServerName, InsecureSkipTLSVerify: cfg.Insecure, ProxyURL: proxy,
		CertificateAuthority: cfg.CAFile, CertificateAuthorityData: cfg.CAData, DisableCompression: cfg.DisableCompression,
	}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{
		ClientCertificate: cfg.CertFile, ClientCertificateData: cfg.CertData, ClientKey: cfg.KeyFile, ClientKeyData: cfg.KeyData,
		Token: cfg.BearerToken, TokenFile: cfg.BearerTokenFile, Username: cfg.Username, Password: cfg.Password,
		Impersonate: cfg.Impersonate.UserName, ImpersonateUID: cfg.Impersonate.UID,
		ImpersonateGroups: cfg.Impersonate.Groups, ImpersonateUserExtra: cfg.Impersonate.Extra,
	}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	a.Kubeconfig, err = clientcmd.Write(*file)
	return a, err
}

// proxyFor is the proxy that the kubeconfig names. One of the environment is for kas and GitLab, not for the API server.
func proxyFor(cfg *rest.Config, server *url.URL) (string, error) {
	if cfg.Proxy == nil {
		return "", nil
	}
	proxy, err := cfg.Proxy(&http.Request{URL: server})
	if err != nil || proxy == nil {
		return "", err
	}
	return proxy.String(), nil
}
