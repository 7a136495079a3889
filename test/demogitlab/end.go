package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"gitlab.com/agentk/agentk/test/narrator"
)

// logTail is how much of each log is shown after a failure, in bytes.
const logTail = 3000

// cleanUp ends everything and removes what was written.
func (s *story) cleanUp() {
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

// showLogs shows the ends of the daemons' logs.
func (s *story) showLogs() {
	if s.line == nil {
		return
	}
	logs := s.line.Logs()
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		log := logs[name]
		s.narrator.Printf("\nThe end of the log of %s:\n    %s\n", name, narrator.Indented(log[max(0, len(log)-logTail):]))
	}
}

// showExports shows how to go on by hand in another terminal.
func (s *story) showExports() {
	s.narrator.Printf(`
Everything stays up until Ctrl-C. In another terminal, be a developer of acme/shop:

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
