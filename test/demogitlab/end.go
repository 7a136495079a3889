package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// CleanUp implements narrator.Story.
func (s *story) CleanUp() {
	if s.line != nil {
		s.line.Stop()
	}
	if s.redis != nil {
		s.redis.Close()
	}
	if s.gitlab != nil {
		s.gitlab.Stop()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// Logs implements narrator.Story.
func (s *story) Logs() map[string]string {
	if s.line == nil {
		return nil
	}
	return s.line.Logs()
}

// Exports implements narrator.Story.
func (s *story) Exports() string {
	if s.line == nil {
		return ""
	}
	return fmt.Sprintf(`be a developer of acme/shop:

    export PATH=%[1]s:$PATH
    export SSL_CERT_FILE=%[2]s
    kubectl --server %[3]s --token pat:%[4]d:%[5]s auth whoami

Be the cluster's administrator:  kubectl --kubeconfig %[6]s get all --all-namespaces
Ask GitLab:                      curl --header "Private-Token: %[7]s" %[8]s/api/v4/metadata
Change the configuration:        git clone http://maintainer:%[7]s@%[9]s/acme/infra.git
Logs:                            tail -f %[10]s/*.log
`,
		s.cluster.Bin, s.line.Authority.File, s.line.ProxyURL, s.agent.ID, s.proxyToken.Value, s.cluster.AdminKubeconfig,
		s.apiToken.Value, s.gitlab.URL, hostOf(s.gitlab.URL), filepath.Join(s.line.Dir, "logs"))
}
