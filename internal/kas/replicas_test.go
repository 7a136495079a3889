package kas_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/redis"
)

// replicas are kas that share a Redis and a folder of repositories.
type replicas struct {
	t     *testing.T
	redis *redis.Server
	repos string
	kas   []*running
}

func startReplicas(t *testing.T, n int) *replicas {
	t.Helper()
	r := &replicas{t: t, redis: redis.StartT(t, redis.Config{}), repos: t.TempDir()}
	gitRepository(t, filepath.Join(r.repos, "acme", "infra.git"))
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600))
	for range n {
		r.kas = append(r.kas, startStandalone(t, r.repos, fmt.Sprintf(`
redis: {server: {address: %q}}
private_api: {listen: {address: "127.0.0.1:0", authentication_secret_file: %q}}
`, r.redis.Address(), secret)))
	}
	for _, k := range r.kas {
		k.eventuallyReady(t)
	}
	return r
}

// readiness is what the probe answers; 0: nobody answers.
func (k *running) readiness() (int, string) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", k.socket)
	}}}
	resp, err := client.Get("http://kas/readiness")
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (k *running) eventuallyReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		code, body := k.readiness()
		if code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %d %s", code, body)
		}
	}
}

func TestReplicas_RequestThroughEither(t *testing.T) {
	r := startReplicas(t, 2)
	conn := dialAsStock(t, r.kas[0].agentAddr, agentToken)
	for i, k := range []*running{r.kas[0], r.kas[1], r.kas[1]} {
		answerOne(t, conn)
		resp, body := ask(t, k.proxyURL+"/version")
		if resp.StatusCode != http.StatusOK || body != "hello" {
			t.Errorf("request %d: %v %q", i, resp, body)
		}
	}
}

// A replica that has never reached Redis would tell clients that agents of other replicas are not there.
func TestReplicas_NotReadyBeforeRedisHasAnswered(t *testing.T) {
	r := startReplicas(t, 1)
	r.redis.Stop()
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600))
	k := startStandalone(t, r.repos, fmt.Sprintf(`
redis: {server: {address: %q}}
private_api: {listen: {address: "127.0.0.1:0", authentication_secret_file: %q}}
`, r.redis.Address(), secret))
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		code, body := k.readiness()
		if code == http.StatusInternalServerError && strings.Contains(body, "redis") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s", code, body)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		code, body := r.kas[0].readiness()
		if code != http.StatusOK || time.Now().After(deadline) {
			t.Fatalf("the kas that knew Redis: %d %q", code, body)
		}
		if strings.HasPrefix(body, "degraded: redis") {
			break
		}
	}
	must(t, r.redis.Restart(t.Context()))
	k.eventuallyReady(t)
}

// another starts one more kas beside the same GitLab, with the same Redis.
func (b *beside) another(name string) *beside {
	b.t.Helper()
	one := *b
	one.name, one.agentAddr = name, freeAddress(b.t)
	one.start("")
	return &one
}

// An agent with a bad token that goes from replica to replica costs GitLab no more than at one, and Redis does not learn the token.
func TestBeside_RefusalIsKnownToAllReplicas(t *testing.T) {
	const token = "glagent-made-up"
	b := besideGitLab(t, "")
	asked := 0
	for i, one := range []*beside{b, b.another("second-"), b.another("third-")} {
		one.ready()
		_, err := agentregistrar.NewAgentRegistrarClient(dialAsStock(t, one.agentAddr, token)).
			Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1})
		if st := status.Convert(err); st.Code() != codes.Unauthenticated || st.Message() != "unauthenticated" {
			t.Errorf("kas %d: %v", i, err)
		}
		switch n := len(b.gl.Requests(gitlab.AgentInfo)); {
		case i == 0:
			asked = n
		case n != asked || n == 0:
			t.Errorf("kas %d asked GitLab %d times, the first one %d", i, n-asked, asked)
		}
	}
	keys, err := b.redis.Keys(t.Context(), "gitlab-kas:refused:*")
	must(t, err)
	if len(keys) != 1 || strings.Contains(keys[0], "made-up") {
		t.Errorf("in Redis: %q", keys)
	}
}

func TestReplicas_PushReachesAgentsOfAll(t *testing.T) {
	r := startReplicas(t, 2)
	for _, k := range r.kas {
		stream, err := agentconfiguration.NewAgentConfigurationClient(dialAsStock(t, k.agentAddr, agentToken)).GetConfiguration(timeout(t),
			&agentconfiguration.ConfigurationRequest{AgentMeta: stockMeta, SkipRegister: true})
		must(t, err)
		_, err = stream.Recv()
		must(t, err)
		defer func() {
			got, err := stream.Recv()
			if err != nil || got.Configuration.CiAccess != nil {
				t.Errorf("%v %v", got, err)
			}
		}()
	}
	work := t.TempDir()
	for _, args := range [][]string{
		{"clone", "-q", filepath.Join(r.repos, "acme", "infra.git"), work},
		{"-C", work, "rm", "-q", ".gitlab/agents/stock/config.yaml"},
		{"-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "less"},
		{"-C", work, "push", "-q"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

// The dead replica's entry is still there when the agent has come to the other one.
func TestReplicas_AgentMoves(t *testing.T) {
	r := startReplicas(t, 2)
	conn := dialAsStock(t, r.kas[0].agentAddr, agentToken)
	answerOne(t, conn)
	if resp, body := ask(t, r.kas[1].proxyURL+"/version"); resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %q", resp, body)
	}
	r.kas[0].stop()
	keys, err := r.redis.Keys(t.Context(), "*tunnel*")
	must(t, err)
	if len(keys) != 0 {
		t.Errorf("a kas that stopped leaves %q", keys)
	}
	answerOne(t, dialAsStock(t, r.kas[1].agentAddr, agentToken))
	if resp, body := ask(t, r.kas[1].proxyURL+"/version"); resp.StatusCode != http.StatusOK || body != "hello" {
		t.Errorf("%v %q", resp, body)
	}
}
