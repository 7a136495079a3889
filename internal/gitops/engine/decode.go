package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
	"gitlab.com/agentk/agentk/internal/gitops/render"
	"gitlab.com/agentk/agentk/internal/gitops/selection"
)

// packed is a decoded object as it waits for its next apply: as text it takes a tenth of the memory.
type packed struct {
	json   []byte
	source plan.Source
}

// decoded is what a unit's files mean.
type decoded struct {
	objects []packed
	// need are directories that have to be fetched first; there are no objects then.
	need []string
	// release is the rendered chart without its objects; nil: a manifest project.
	release *render.Release
}

// decode renders the files of a job.
func decode(ctx context.Context, u unit, j *job, access *cluster.Access) (decoded, error) {
	if j.err != nil {
		return decoded{}, j.err
	}
	var objects []render.Object
	var d decoded
	var err error
	if u.chart != nil {
		d.release, err = renderChart(ctx, u, j, access)
		if err == nil {
			objects, d.release.Objects = d.release.Objects, nil
		}
	} else {
		objects, d.need, err = renderProject(ctx, u, j)
	}
	if err != nil {
		return decoded{}, err
	}
	d.objects = make([]packed, len(objects))
	for i, o := range objects {
		data, err := json.Marshal(o.Object)
		if err != nil {
			return decoded{}, fmt.Errorf("%s: %w", o.File, err)
		}
		d.objects[i] = packed{json: data, source: plan.Source{File: o.File, Line: o.Line}}
	}
	return d, nil
}

// unpack makes objects that may be changed.
func unpack(set []packed) ([]plan.Object, error) {
	objects := make([]plan.Object, len(set))
	for i, p := range set {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(p.json); err != nil {
			return nil, fmt.Errorf("%s: %w", p.source.File, err)
		}
		objects[i] = plan.Object{Unstructured: u, Source: p.source}
	}
	return objects, nil
}

// renderProject reads raw manifests and builds kustomizations. Files below a kustomization's directory, or one that was fetched for it,
// are its own and no manifests, also when a glob means them.
func renderProject(ctx context.Context, u unit, j *job) ([]render.Object, []string, error) {
	files := j.files[0]
	var globs []selection.Glob
	var dirs []string
	for _, p := range u.project.GetPaths() {
		if dir := p.GetKustomize(); dir != "" {
			dirs = append(dirs, strings.Trim(dir, "/"))
			continue
		}
		g, err := selection.ParseGlob(p.GetGlob())
		if err != nil {
			return nil, nil, &render.UserError{Reason: err.Error()}
		}
		globs = append(globs, g)
	}
	own := append(slices.Clone(dirs), u.fetched...)
	raw := slices.DeleteFunc(slices.Clone(files), func(f render.File) bool {
		return below(f.Path, own) || len(u.project.GetPaths()) > 0 && !slices.ContainsFunc(globs, func(g selection.Glob) bool { return g.Match(f.Path) })
	})
	objects, err := render.Manifests(raw, j.limits)
	if err != nil {
		return nil, nil, err
	}
	var need []string
	for _, dir := range dirs {
		built, more, err := render.Kustomize(ctx, files, dir, j.limits, own...)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, built...)
		need = append(need, more...)
	}
	if len(need) > 0 {
		slices.Sort(need)
		return nil, slices.Compact(need), nil
	}
	return objects, nil, nil
}

// below says whether file is in one of the directories.
func below(file string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return dir == "" || dir == "." || strings.HasPrefix(file, dir+"/")
	})
}

// renderChart renders for the versions that the API server has.
func renderChart(ctx context.Context, u unit, j *job, access *cluster.Access) (*render.Release, error) {
	version, err := access.Discovery.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("version of the Kubernetes API server: %w", err)
	}
	apis, err := apiVersions(access.Discovery)
	if err != nil {
		return nil, err
	}
	chart := render.Chart{
		Dir:         u.chart.GetSource().GetProject().GetPath(),
		Files:       j.files[0],
		ReleaseName: u.chart.GetReleaseName(),
		Namespace:   u.namespace,
		KubeVersion: version.GitVersion,
		APIVersions: apis,
	}
	for i, v := range u.chart.GetValues() {
		if v.GetFile() == nil && v.GetUrl() == nil {
			text, err := inlineValues(v.GetInline())
			if err != nil {
				return nil, fmt.Errorf("values[%d].inline: %w", i, err)
			}
			chart.Values = append(chart.Values, text)
			continue
		}
		files := j.files[int32(i+1)]
		if len(files) == 0 {
			return nil, &render.UserError{Reason: fmt.Sprintf("values[%d]: there is no such file", i)}
		}
		chart.Values = append(chart.Values, files[0].Data)
	}
	release, err := render.RenderChart(ctx, chart, j.limits)
	if err != nil {
		return nil, err
	}
	return &release, nil
}

// inlineValues are values that stand in the configuration, as YAML.
func inlineValues(v *structpb.Value) ([]byte, error) {
	if text, ok := v.GetKind().(*structpb.Value_StringValue); ok {
		return []byte(text.StringValue), nil
	}
	return v.MarshalJSON()
}

// apiVersions lists what charts ask for: "v1", "apps/v1" and "apps/v1/Deployment". An API whose server is down is left out.
func apiVersions(d discovery.DiscoveryInterface) ([]string, error) {
	_, resources, err := d.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("kinds of the Kubernetes API server: %w", err)
	}
	var all []string
	for _, list := range resources {
		all = append(all, list.GroupVersion)
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				all = append(all, list.GroupVersion+"/"+r.Kind)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// isUserError says that the repository is wrong, not the world.
func isUserError(err error) bool {
	var user *render.UserError
	var problems plan.Problems
	return errors.As(err, &user) || errors.As(err, &problems) && problems.User()
}
