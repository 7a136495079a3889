package main

import (
	"fmt"
	"path/filepath"
)

// CleanUp implements narrator.Story.
func (s *story) CleanUp() {
	if s.line != nil {
		s.line.Stop()
	}
	if s.cluster != nil {
		s.cluster.Stop()
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
	l, c := s.line, s.cluster
	return fmt.Sprintf(`be the job:

    export PATH=%[1]s:$PATH
    export SSL_CERT_FILE=%[2]s
    export KUBECONFIG=%[3]s    # of acme/shop; %[4]s is that of acme/intern
    kubectl auth whoami

Be the cluster's administrator:  kubectl --kubeconfig %[5]s get all --all-namespaces
Change the agent's configuration: edit %[6]s, then git -C %[7]s commit -am change and git -C %[7]s push origin HEAD:main
Projects, agents and jobs:        %[8]s (kas reads it again when it changes)
Logs:                             tail -f %[9]s/*.log
Metrics:                          curl --unix-socket %[10]s http://kas/metrics
`,
		c.Bin, l.Authority.File, l.KubeconfigPath(shopJob), l.KubeconfigPath(internJob), c.AdminKubeconfig,
		filepath.Join(l.CloneDir("acme/infra"), ".gitlab/agents/demo/config.yaml"), l.CloneDir("acme/infra"), l.KasFile,
		filepath.Join(l.Dir, "logs"), filepath.Join(l.Dir, "kas.sock"))
}
