package swarm

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"gitlab.com/agentk/agentk/test/line"
)

// Bearer is what the job of a Kas sends to the Kubernetes proxy to reach agent i.
func Bearer(i int) string { return fmt.Sprintf("ci:%d:%s", i+1, jobToken) }

// AgentAddress is host:port of the listener that URL names.
func (k *Kas) AgentAddress() string { return k.agentAddress }

// SecureProxy makes the Kubernetes proxy speak TLS from the next Start on, with a certificate of that authority.
func (k *Kas) SecureProxy(authority *line.Authority) error {
	certificate, key, err := authority.Issue("proxy", "127.0.0.1")
	if err != nil {
		return err
	}
	k.proxyTLS = object{"certificate_file": certificate, "key_file": key}
	k.ProxyURL = "https" + strings.TrimPrefix(k.ProxyURL, "http")
	return k.writeFile(k.world)
}

// JobsAre gives agents 0 to n-1 a configuration file: under access_as ci_job, so that requests of the job carry an identity.
func (k *Kas) JobsAre(ctx context.Context, n int) error {
	const content = "ci_access:\n  projects:\n  - id: " + project + "\n    access_as: {ci_job: {}}\n"
	var b strings.Builder
	b.WriteString("commit refs/heads/main\ncommitter swarm <swarm@localhost> 0 +0000\ndata 6\nconfig\nfrom refs/heads/main^0\n")
	for i := range n {
		fmt.Fprintf(&b, "M 644 inline .gitlab/agents/%s/config.yaml\ndata %d\n%s\n", agentName(i), len(content), content)
	}
	cmd := exec.CommandContext(ctx, "git", "-C", filepath.Join(k.dir, "repositories", project+".git"), "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("configuration of the swarm: %w: %s", err, out)
	}
	return nil
}

// agentName is the name of agent i.
func agentName(i int) string { return fmt.Sprintf("agent-%06d", i) }
