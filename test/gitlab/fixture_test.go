package gitlab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// ids of the usual cast.
const (
	acmeID, teamID, otherID = 5, 6, 8
	infraID, shopID, docsID = 31, 42, 43
	edgeID                  = 7
	userID                  = 3
	shopJob                 = 9001
)

// start starts a double with the usual cast: agent edge of acme/infra, job 9001 of acme/team/shop by ci-user, who is a developer in acme.
func start(t *testing.T, cfg Config) *GitLab {
	t.Helper()
	if cfg.Settings.Kas.ExternalURL == "" {
		cfg.Settings.Kas.ExternalURL = "wss://kas.corp.test/-/kubernetes-agent/"
	}
	g, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for _, group := range []Group{{acmeID, "acme"}, {teamID, "acme/team"}, {otherID, "other"}} {
		must(t)(g.AddGroup(group))
	}
	for _, p := range []Project{
		{ID: infraID, Path: "acme/infra"},
		{ID: shopID, Path: "acme/team/shop", ProtectedRefs: []string{"main", "release-*"}},
		{ID: docsID, Path: "other/docs", Visibility: Public},
	} {
		must(t)(g.AddProject(t.Context(), p))
	}
	must(t)(g.AddUser(User{ID: userID, Username: "ci-user"}))
	must(t)(g.AddUser(User{ID: 4, Username: "ci-intern"}))
	check(t, g.AddMember("ci-user", "acme", Developer))
	must(t)(g.AddAgent(Agent{ID: edgeID, Name: "edge", Project: "acme/infra"}))
	must(t)(g.AddJob(Job{ID: shopJob, Pipeline: 801, Project: "acme/team/shop", User: "ci-user", Environment: "review/feature-1"}))
	return g
}

// must ends the test on an error. It is called with the results of a call: must(t)(f()).
func must(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		check(t, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reply is an answer of the double.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *reply) json(t *testing.T) map[string]any {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal(r.body, &body); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return body
}

func (g *GitLab) ask(t *testing.T, method, path string, header http.Header, body any) *reply {
	t.Helper()
	var content []byte
	switch b := body.(type) {
	case nil:
	case string:
		content = []byte(b)
	default:
		var err error
		content, err = json.Marshal(b)
		check(t, err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, bytes.NewReader(content))
	check(t, err)
	request.Header = header.Clone()
	if request.Header == nil {
		request.Header = http.Header{}
	}
	if content != nil && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	check(t, err)
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	check(t, err)
	return &reply{status: response.StatusCode, header: response.Header, body: read}
}

// kasHeader is how kas proves who it is.
func (g *GitLab) kasHeader(t *testing.T, change func(jwt.MapClaims)) http.Header {
	t.Helper()
	now := time.Now()
	claims := jwt.MapClaims{"iss": "gitlab-kas", "aud": []string{"gitlab"}, "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(30 * time.Second).Unix()}
	if change != nil {
		change(claims)
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(g.Secret)
	check(t, err)
	return http.Header{HeaderKas: {signed}}
}

func (g *GitLab) agentHeader(t *testing.T, token, in string) http.Header {
	t.Helper()
	header := g.kasHeader(t, nil)
	if in == HeaderAuthorization {
		token = "Bearer " + token
	}
	header.Set(in, token)
	return header
}

// configure posts an agent's configuration as kas does.
func (g *GitLab) configure(t *testing.T, agentID int, config string) {
	t.Helper()
	body := map[string]any{"agent_id": "7", "agent_config": json.RawMessage(config)}
	body["agent_id"] = agentID
	if r := g.ask(t, "POST", "/api/v4/internal/kubernetes/agent_configuration", g.kasHeader(t, nil), body); r.status != http.StatusNoContent {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
}

func wantStatus(t *testing.T, r *reply, want int) {
	t.Helper()
	if r.status != want {
		t.Errorf("status %d, want %d: %.300s", r.status, want, r.body)
	}
}

// number writes a number out of JSON.
func number(value any) string {
	n, ok := value.(float64)
	if !ok {
		return fmt.Sprint(value)
	}
	return strconv.FormatFloat(n, 'f', -1, 64)
}
