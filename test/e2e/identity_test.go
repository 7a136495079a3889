//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhoami(t *testing.T) {
	type userInfo struct {
		Username string              `json:"username"`
		UID      string              `json:"uid"`
		Groups   []string            `json:"groups"`
		Extra    map[string][]string `json:"extra"`
	}
	var got struct {
		Status struct {
			UserInfo userInfo `json:"userInfo"`
		} `json:"status"`
	}
	out, err := ci.Kubectl(soon(t), jobID, "auth", "whoami", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := userInfo{
		Username: "gitlab:ci_job:9001",
		Groups: []string{
			"gitlab:ci_job",
			"gitlab:group:5", "gitlab:group_env_tier:5:production",
			"gitlab:group:2", "gitlab:group_env_tier:2:production",
			"gitlab:project:42", "gitlab:project_env:42:production", "gitlab:project_env_tier:42:production",
			"system:authenticated", // the API server's own addition
		},
		Extra: map[string][]string{
			"agent.gitlab.com/id":                {"7"},
			"agent.gitlab.com/config_project_id": {"31"},
			"agent.gitlab.com/project_id":        {"42"},
			"agent.gitlab.com/ci_pipeline_id":    {"801"},
			"agent.gitlab.com/ci_job_id":         {"9001"},
			"agent.gitlab.com/username":          {"ci-user"},
			"agent.gitlab.com/environment_slug":  {"production"},
			"agent.gitlab.com/environment_tier":  {"production"},
		},
	}
	if diff := cmp.Diff(want, got.Status.UserInfo); diff != "" {
		t.Errorf("identity of the job (-want +got):\n%s", diff)
	}
}
