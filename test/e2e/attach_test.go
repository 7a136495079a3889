//go:build e2e

package e2e

import (
	"io"
	"testing"
)

func TestAttach(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.apply(t, `
{apiVersion: v1, kind: Pod, metadata: {name: shell}, spec: {terminationGracePeriodSeconds: 0, restartPolicy: Never,
 containers: [{name: shell, image: "local/web:1", command: [sh], stdin: true}]}}`)
		j.run(t, "wait", "--for=condition=Ready", "pod/shell", "--timeout=90s")

		cmd := j.kubectl(soon(t), t, "attach", "-i", "shell")
		var stdout transcript
		cmd.Stdout = &stdout
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p := begin(t, cmd)
		say := func(text string) {
			if _, err := io.WriteString(stdin, text); err != nil {
				t.Fatal(err)
			}
		}
		say("echo $((6*7))\n")
		stdout.wait(t, "42\n")
		say("echo $((6*8)) >&2\n")
		p.stderr.wait(t, "48\n")
		say("exit 3\n")
		if got := p.wait(t); got != 0 {
			t.Errorf("kubectl attach ended with code %d: %s", got, &p.stderr)
		}
		j.run(t, "wait", "pod/shell", "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=3", "--timeout=60s")
	})
}
