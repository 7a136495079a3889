package chaos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	word  = "/api/v1/namespaces/default/configmaps/word"
	watch = "/api/v1/namespaces/default/configmaps?watch=1"
)

// via is a kas as the address of requests; front is the balancer.
func via(k *fleet.Kas) string { return "https://" + k.ProxyAddress + "/k8s-proxy" }

func front(f *fleet.Fleet) string { return f.ProxyURL }

// answer is what came of a request.
type answer struct {
	code int
	body string
	err  error // no answer, or not all of it
}

// ok is the error of an answer that is not all right.
func ok(a answer) error {
	if a.err == nil && a.code != http.StatusOK {
		return fmt.Errorf("HTTP status %d: %s", a.code, a.body)
	}
	return a.err
}

// reason is what kas says in an answer of its own, with an error for any other.
func (a answer) reason() (string, error) {
	var s metav1.Status
	if a.err != nil {
		return "", a.err
	}
	if err := json.Unmarshal([]byte(a.body), &s); err != nil || int(s.Code) != a.code || s.Message == "" {
		return "", fmt.Errorf("HTTP status %d: %q is no Status of it, %w", a.code, a.body, err)
	}
	return s.Message, nil
}

// ask performs one request on a connection of its own.
func ask(ctx context.Context, f *fleet.Fleet, base, agent, path string) answer {
	response, err := open(ctx, f, base, agent, path)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{code: response.StatusCode, body: string(body), err: err}
}

// open returns when the header of the answer is there.
func open(ctx context.Context, f *fleet.Fleet, base, agent, path string) (*http.Response, error) {
	client, err := f.HTTPClient(fleet.Job, agent)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true
	return client.Do(request)
}

// inFlight starts requests and returns when all of them have reached the double.
func inFlight(t testing.TB, f *fleet.Fleet, base, path string, n int) func() []answer {
	t.Helper()
	answers := make([]answer, n)
	var all sync.WaitGroup
	ctx := soon(t)
	for i := range answers {
		all.Go(func() { answers[i] = ask(ctx, f, base, doubled, path) })
	}
	eventually(t, fmt.Sprintf("%d requests are in flight", n), func(context.Context) error {
		if got := f.Double.Late(); got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
	return func() []answer { all.Wait(); return answers }
}

// beginWatch opens a watch. The channel tells how it ended; nil is a clean end.
func beginWatch(ctx context.Context, t testing.TB, f *fleet.Fleet, base, agent string) <-chan error {
	t.Helper()
	response, err := open(ctx, f, base, agent, watch)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("watch: HTTP status %d", response.StatusCode)
	}
	done := make(chan error, 1)
	go func() {
		defer response.Body.Close()
		_, err := io.Copy(io.Discard, response.Body)
		done <- err
	}()
	return done
}

// keeper is a client that keeps its connections, as most libraries do, and speaks one version of HTTP.
func keeper(t testing.TB, f *fleet.Fleet, agent string, version, conns int) (client *http.Client, header http.Header) {
	t.Helper()
	bearer, err := f.Bearer(fleet.Job, agent)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.Authority.Pool}, MaxIdleConnsPerHost: conns, Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(version == 1)
	transport.Protocols.SetHTTP2(version == 2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, http.Header{"Authorization": {"Bearer " + bearer}}
}

// await receives one value, within a deadline.
func await[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-soon(t).Done():
		t.Fatalf("%s: not within the deadline", what)
		panic("unreachable")
	}
}

// complete says whether an answer that looks complete is: the word, or a refusal with its reason. No answer at all is an honest end too.
func complete(a answer) error {
	switch {
	case a.err != nil:
		return nil
	case a.code == http.StatusOK:
		var object struct{ Data map[string]string }
		if err := json.Unmarshal([]byte(a.body), &object); err != nil || object.Data["word"] != "hello" {
			return fmt.Errorf("a 200 with %q, %w", a.body, err)
		}
		return nil
	case a.code < http.StatusInternalServerError && a.code != http.StatusTooManyRequests:
		return errors.New("HTTP status " + http.StatusText(a.code))
	}
	_, err := a.reason()
	return err
}
