package main

import (
	"path/filepath"
	"sort"

	"gitlab.com/agentk/agentk/test/narrator"
)

// logTail is how much of each log is shown after a failure, in bytes.
const logTail = 3000

// cleanUp ends everything and removes what was written.
func (s *story) cleanUp() {
	if s.line != nil {
		s.line.Stop()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
}

// showLogs shows the ends of the daemons' logs.
func (s *story) showLogs() {
	if s.line == nil {
		return
	}
	logs := s.line.Logs()
	names := make([]string, 0, len(logs))
	for name := range logs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		log := logs[name]
		s.narrator.Printf("\nThe end of the log of %s:\n    %s\n", name, narrator.Indented(log[max(0, len(log)-logTail):]))
	}
}

// showExports shows how to go on by hand in another terminal.
func (s *story) showExports() {
	l, c := s.line, s.cluster
	s.narrator.Printf(`
Everything stays up until Ctrl-C. In another terminal, be the job:

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
