package kube

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// nodeTemplates are the configuration files of the node's programs.
//
//go:embed node/containerd.toml node/cni.conflist node/kubelet.yaml node/kube-proxy.yaml
var nodeTemplates embed.FS

func (n *node) makeFolders() error {
	for _, sub := range []string{"etc/cni", "run", "kubelet", "addresses", "log", "containerd", "volumeplugins"} {
		if err := os.MkdirAll(filepath.Join(n.dir, sub), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// writeConfigs fills in the templates for this node.
func (n *node) writeConfigs() error {
	values := struct{ Dir, PKI, Address, Name string }{n.dir, n.pki, nodeIP, NodeName}
	all, err := template.ParseFS(nodeTemplates, "node/*")
	if err != nil {
		return err
	}
	for name, target := range map[string]string{
		"containerd.toml": "containerd.toml", "kubelet.yaml": "kubelet.yaml", "kube-proxy.yaml": "kube-proxy.yaml",
		"cni.conflist": "cni/10-kc.conflist",
	} {
		var text strings.Builder
		if err := all.ExecuteTemplate(&text, name, values); err != nil {
			return fmt.Errorf("configuration of the node: %w", err)
		}
		if err := os.WriteFile(filepath.Join(n.dir, "etc", target), []byte(text.String()), 0o600); err != nil {
			return err
		}
	}
	return n.writeResolvConf()
}

// writeResolvConf gives Pods outside the cluster's DNS the machine's name servers; kubelet refuses blank lines.
func (n *node) writeResolvConf() error {
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	var lines strings.Builder
	for line := range strings.Lines(string(content)) {
		if strings.TrimSpace(line) != "" {
			lines.WriteString(line)
		}
	}
	return os.WriteFile(filepath.Join(n.dir, "etc", "resolv.conf"), []byte(lines.String()), 0o644)
}
