package gitlab

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// variables are those of a job. Of several with one name the last counts.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	if _, there := v.values[name]; !there {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

func (v *variables) get(name string) string { return v.values[name] }

// ownVariables are those known before the job is: what its environment's name may be made of.
func (r *Runner) ownVariables(request PipelineRequest, pipeline *Pipeline, plan *plan, planned plannedJob) *variables {
	v := &variables{values: map[string]string{}}
	g := r.GitLab
	namespace, name := path.Split(request.Project)
	for _, pair := range [][2]string{
		{"CI", "true"},
		{"GITLAB_CI", "true"},
		{"CI_SERVER_URL", g.URL},
		{"CI_SERVER_VERSION", g.release.String()},
		{"CI_API_V4_URL", g.URL + apiRoot},
		{"CI_PIPELINE_ID", fmt.Sprint(pipeline.ID)},
		{"CI_PROJECT_PATH", request.Project},
		{"CI_PROJECT_NAME", name},
		{"CI_PROJECT_NAMESPACE", strings.TrimSuffix(namespace, "/")},
		{"CI_COMMIT_SHA", pipeline.Commit},
		{"CI_COMMIT_SHORT_SHA", pipeline.Commit[:8]},
		{"CI_COMMIT_REF_NAME", request.Ref},
		{"CI_COMMIT_REF_SLUG", refSlug(request.Ref)},
		{"CI_JOB_NAME", planned.name},
		{"CI_JOB_STAGE", planned.Stage},
		{"GITLAB_USER_LOGIN", request.User},
	} {
		v.set(pair[0], pair[1])
	}
	for _, from := range []map[string]string{plan.variables, planned.Variables} {
		for _, key := range slices.Sorted(maps.Keys(from)) {
			v.set(key, os.Expand(from[key], v.get))
		}
	}
	return v
}

// jobVariables adds those that need the job to be there: its token, its environment, its kubeconfig. What users define wins over them.
func (r *Runner) jobVariables(v *variables, j *Job, build string, planned plannedJob) error {
	g := r.GitLab
	p, err := g.projectOf(j.Project)
	if err != nil {
		return err
	}
	own := &variables{values: map[string]string{}}
	own.set("CI_JOB_ID", fmt.Sprint(j.ID))
	own.set("CI_JOB_TOKEN", j.Token)
	own.set("CI_PROJECT_ID", fmt.Sprint(p.ID))
	own.set("CI_PROJECT_DIR", build)
	own.set("CI_DEFAULT_BRANCH", p.DefaultBranch)
	g.mu.Lock()
	own.set("CI_COMMIT_REF_PROTECTED", fmt.Sprint(g.db.jobs[j.ID].protected()))
	g.mu.Unlock()
	if e := g.EnvironmentOf(j.ID); e != nil {
		own.set("CI_ENVIRONMENT_NAME", e.Name)
		own.set("CI_ENVIRONMENT_SLUG", e.Slug)
		own.set("CI_ENVIRONMENT_TIER", e.Tier)
		own.set("CI_ENVIRONMENT_ACTION", "start")
		if planned.Environment.URL != "" {
			own.set("CI_ENVIRONMENT_URL", os.Expand(planned.Environment.URL, func(name string) string {
				return own.values[name] + v.values[name] // in one of them
			}))
		}
	}
	kubeconfig, err := g.Kubeconfig(j.ID)
	if err != nil {
		return err
	}
	if kubeconfig != "" {
		file := filepath.Join(build+".tmp", "KUBECONFIG")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(kubeconfig), 0o666); err != nil { // for the umask to narrow, as a runner has it
			return err
		}
		own.set("KUBECONFIG", file)
	}
	for _, name := range own.names {
		if _, users := v.values[name]; !users {
			v.set(name, own.values[name])
		}
	}
	return nil
}
