//go:build e2e

package e2e

import (
	"bytes"
	"strings"
	"testing"
)

// spoken is what the Go libraries in kubectl say about HTTP/2 when they are told to.
const spoken = "http2: Transport encoding header"

// kubectl speaks HTTP/2 with kas, but opens connections with HTTP/1.1 for what it upgrades.
func TestHTTP2(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		j.env = append(j.env, "GODEBUG=http2debug=1")
		// What Go's debugging prints holds the credential, and so is not shown.
		for _, args := range [][]string{{"get", "pods"}, {"exec", "web", "--", "echo", "hello"}} {
			cmd := j.kubectl(soon(t), t, args...)
			var said bytes.Buffer
			cmd.Stderr = &said
			out, err := cmd.Output()
			if err != nil || !strings.Contains(said.String(), spoken) || args[0] == "exec" && string(out) != "hello\n" {
				t.Errorf("kubectl %s: %q, %v", args[0], out, err)
			}
		}
		// The way out of trouble with HTTP/2: the one counts when the kubeconfig names an authority, the other when it does not.
		j.env = append(j.env, "DISABLE_HTTP2=1", "GODEBUG=http2debug=1,http2client=0")
		cmd := j.kubectl(soon(t), t, "exec", "web", "--", "echo", "hello")
		var said bytes.Buffer
		cmd.Stderr = &said
		if out, err := cmd.Output(); err != nil || strings.Contains(said.String(), spoken) || string(out) != "hello\n" {
			t.Errorf("without HTTP/2: %q, %v", out, err)
		}
	})
}
