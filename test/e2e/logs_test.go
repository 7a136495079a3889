//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"testing"
)

// The Pod logs every request it gets. The next request is made only once the line about the last one is here, so that a hop that held
// lines back would hold up everything.
func TestLogs_Follow(t *testing.T) {
	j := newJob(t)
	j.webPod(t)
	ip := j.run(t, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
	cmd := j.kubectl(soon(t), t, "logs", "-f", "web")
	var stdout transcript
	cmd.Stdout = &stdout
	p := begin(t, cmd)
	stdout.wait(t, "listening on :8080\n")
	for i := range 20 {
		path := fmt.Sprintf("/line-%d", i)
		request, err := http.NewRequestWithContext(soon(t), http.MethodGet, "http://"+net.JoinHostPort(ip, "8080")+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		stdout.wait(t, "GET "+path+" from")
	}
	// It ends with the container.
	j.run(t, "delete", "pod", "web", "--now")
	if got := p.wait(t); got != 0 {
		t.Errorf("kubectl logs ended with code %d: %s", got, &p.stderr)
	}
}
