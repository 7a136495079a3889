package agent

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apimachinery/pkg/util/validation"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/rules"
)

const (
	// maxPaths is how many globs and names of files kas takes in one request.
	maxPaths = 100
	// maxName is the longest name that Helm takes for a release.
	maxName = 53
)

// isLabel says that Kubernetes takes a name for a namespace; isDotted that it does for a service account.
func isLabel(name string) bool { return len(validation.IsDNS1123Label(name)) == 0 }

func isDotted(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// unit is what one worker synchronises.
type unit struct {
	// id names the unit in logs and to the engine.
	id string
	// spec is a ManifestProjectCF or a ChartCF, with all defaults.
	spec    proto.Message
	sources []source
}

// source is one place that files come from.
type source struct {
	// number is how the engine knows it.
	number int32
	// repository, or values if that is nil.
	repository *repository
	values     *valuesURL
}

// repository says which files of a project are asked for.
type repository struct {
	project string
	ref     *gitops.GitRefCF
	paths   []*gitops.PathCF
	// dirs are directories whose files are asked for besides, so that files of both come once.
	dirs []string
	// needs: the engine may ask for further directories.
	needs bool
}

// newUnits reads a configuration. The error names the key that is wrong.
func newUnits(cfg *agentcfg.AgentConfiguration, values *valuesReader) ([]unit, error) {
	if err := rules.Validate(cfg.GetGitops()); err != nil && cfg.GetGitops() != nil {
		return nil, fmt.Errorf("gitops: %w", err)
	}
	var units []unit
	known := map[string]bool{}
	add := func(u unit, err error, key string, i int) error {
		if err == nil && known[u.id] {
			err = fmt.Errorf("%s is there twice", u.id)
		}
		if err != nil {
			return fmt.Errorf("gitops.%s[%d]: %w", key, i, err)
		}
		known[u.id] = true
		units = append(units, u)
		return nil
	}
	for i, p := range cfg.GetGitops().GetManifestProjects() {
		u, err := projectUnit(p, cfg.GetProjectPath())
		if err := add(u, err, "manifest_projects", i); err != nil {
			return nil, err
		}
	}
	for i, c := range cfg.GetGitops().GetCharts() {
		u, err := chartUnit(c, cfg.GetProjectPath(), values)
		if err := add(u, err, "charts", i); err != nil {
			return nil, err
		}
	}
	return units, nil
}

// ManifestProject returns the configuration of a project, with all defaults. An entry without an id is taken for the project's, as it is
// in the repository that has the configuration. Errors name the key that is wrong.
func ManifestProject(cfg *agentcfg.GitopsCF, project string) (*agentcfg.ManifestProjectCF, error) {
	var found *agentcfg.ManifestProjectCF
	for _, p := range cfg.GetManifestProjects() {
		if p.Id == nil && found == nil || p.Id != nil && p.GetId() == project {
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("gitops.manifest_projects has no project %q", project)
	}
	found = fillProject(found, project)
	return found, checkProject(found)
}

func projectUnit(p *agentcfg.ManifestProjectCF, configProject string) (unit, error) {
	p = fillProject(p, configProject)
	if err := checkProject(p); err != nil {
		return unit{}, err
	}
	repo := &repository{project: p.GetId(), ref: gitRef(p.GetRef()), needs: true}
	for _, path := range p.GetPaths() {
		if dir := path.GetKustomize(); dir != "" {
			repo.dirs = append(repo.dirs, dir)
			continue
		}
		repo.paths = append(repo.paths, globPath(path.GetGlob()))
	}
	if len(repo.paths) == 0 { // kustomizations alone
		repo.paths, repo.dirs = globsBelow(repo.dirs), nil
	}
	return unit{id: p.GetId(), spec: p, sources: []source{{repository: repo}}}, nil
}

func checkProject(p *agentcfg.ManifestProjectCF) error {
	if p.GetId() == "" {
		return errors.New("id: it is not set, and kas does not tell the project of the configuration")
	}
	if len(p.GetPaths()) > maxPaths {
		return fmt.Errorf("paths: there are %d, and %d at most are possible", len(p.GetPaths()), maxPaths)
	}
	for i, one := range p.GetPaths() {
		set, isDir := one.GetPath().(*agentcfg.PathCF_Kustomize)
		if !isDir {
			continue
		}
		if err := checkDir(set.Kustomize); err != nil {
			return fmt.Errorf("paths[%d].kustomize: %w", i, err)
		}
		set.Kustomize = strings.Trim(set.Kustomize, "/")
	}
	if p.GetServiceAccount() != "" {
		namespace, name, _ := strings.Cut(p.GetServiceAccount(), "/")
		if !isLabel(namespace) || !isDotted(name) {
			return fmt.Errorf("service_account: %.200q is not <namespace>/<name>", p.GetServiceAccount())
		}
	}
	if !isLabel(p.GetDefaultNamespace()) {
		return fmt.Errorf("default_namespace: %.200q is not the name of a namespace", p.GetDefaultNamespace())
	}
	if p.GetReconcileTimeout().AsDuration() < 0 {
		return errors.New("reconcile_timeout: must not be negative")
	}
	if p.GetPruneTimeout().AsDuration() < 0 {
		return errors.New("prune_timeout: must not be negative")
	}
	return nil
}

// checkDir wants a directory of a repository: relative to its root, "." for the root itself.
func checkDir(dir string) error {
	clean := strings.Trim(dir, "/")
	if clean == "" || path.Clean(clean) != clean || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(clean, "\\\x00") {
		return fmt.Errorf("%.200q is not a directory inside a repository", dir)
	}
	return nil
}

func chartUnit(c *agentcfg.ChartCF, configProject string, values *valuesReader) (unit, error) {
	c = fillChart(c, configProject)
	if !isLabel(c.GetReleaseName()) || len(c.GetReleaseName()) > maxName {
		return unit{}, fmt.Errorf("release_name: %.200q is not the name of a release: at most %d lower case letters, digits and inner dashes",
			c.GetReleaseName(), maxName)
	}
	if !isLabel(c.GetNamespace()) {
		return unit{}, fmt.Errorf("namespace: %.200q is not the name of a namespace", c.GetNamespace())
	}
	if c.GetMaxHistory() < 0 {
		return unit{}, errors.New("max_history: must not be negative")
	}
	project := c.GetSource().GetProject()
	if project.GetId() == "" {
		return unit{}, errors.New("source.project: is required")
	}
	if err := checkDir(project.GetPath()); err != nil {
		return unit{}, fmt.Errorf("source.project.path: %w", err)
	}
	project.Path = strings.Trim(project.GetPath(), "/")
	u := unit{id: "chart:" + c.GetNamespace() + "/" + c.GetReleaseName(), spec: c}
	u.sources = append(u.sources, source{repository: &repository{
		project: project.GetId(), ref: gitRef(project.GetRef()), paths: globsBelow([]string{project.GetPath()}),
	}})
	for i, v := range c.GetValues() {
		s, err := valuesSource(v, values)
		if err != nil {
			return unit{}, fmt.Errorf("values[%d].%w", i, err)
		}
		if s != nil {
			s.number = int32(i + 1)
			u.sources = append(u.sources, *s)
		}
	}
	return u, nil
}

// valuesSource returns nil for values that stand in the configuration.
func valuesSource(v *agentcfg.ChartValuesCF, values *valuesReader) (*source, error) {
	switch from := v.GetFrom().(type) {
	case *agentcfg.ChartValuesCF_Inline:
		switch from.Inline.GetKind().(type) {
		case *structpb.Value_StructValue, *structpb.Value_StringValue:
			return nil, nil
		}
		return nil, errors.New("inline: must be a mapping of values, or a text that holds one")
	case *agentcfg.ChartValuesCF_File:
		if err := checkDir(from.File.GetFile()); err != nil || from.File.GetFile() == "." {
			return nil, fmt.Errorf("file.file: %.200q is not a file inside a repository", from.File.GetFile())
		}
		return &source{repository: &repository{
			project: from.File.GetProjectId(), ref: gitRef(from.File.GetRef()), paths: []*gitops.PathCF{filePath(from.File.GetFile())},
		}}, nil
	case *agentcfg.ChartValuesCF_Url:
		url, err := values.check(from.Url)
		if err != nil {
			return nil, fmt.Errorf("url: %w", err)
		}
		return &source{values: url}, nil
	default:
		return nil, errors.New("inline, file or url: one of them must be set")
	}
}

func globPath(glob string) *gitops.PathCF {
	return &gitops.PathCF{Path: &gitops.PathCF_Glob{Glob: glob}}
}

func filePath(file string) *gitops.PathCF {
	return &gitops.PathCF{Path: &gitops.PathCF_File{File: strings.TrimLeft(file, "/")}}
}

// special are the characters that mean something in a glob.
var special = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`)

// globsBelow asks for all files below directories, each file once.
func globsBelow(dirs []string) []*gitops.PathCF {
	var paths []*gitops.PathCF
	for _, dir := range outermost(dirs) {
		if dir == "." {
			paths = append(paths, globPath("**"))
			continue
		}
		paths = append(paths, globPath(special.Replace(dir)+"/**"))
	}
	return paths
}

// outermost leaves out directories that are below others of the list.
func outermost(dirs []string) []string {
	sorted := slices.Compact(slices.Sorted(slices.Values(dirs)))
	var out []string
	for i, dir := range sorted {
		if !below(dir, slices.Delete(slices.Clone(sorted), i, i+1)) {
			out = append(out, dir)
		}
	}
	return out
}

// below says whether a file or directory is inside one of the directories.
func below(name string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return dir == "." || strings.HasPrefix(name, dir+"/")
	})
}

func gitRef(ref *agentcfg.GitRefCF) *gitops.GitRefCF {
	switch r := ref.GetRef().(type) {
	case *agentcfg.GitRefCF_Tag:
		return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Tag{Tag: r.Tag}}
	case *agentcfg.GitRefCF_Branch:
		return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Branch{Branch: r.Branch}}
	case *agentcfg.GitRefCF_Commit:
		return commitRef(r.Commit)
	}
	return nil
}

func commitRef(commit string) *gitops.GitRefCF {
	return &gitops.GitRefCF{Ref: &gitops.GitRefCF_Commit{Commit: commit}}
}

// same says whether a worker may keep running.
func (u unit) same(other unit) bool { return u.id == other.id && proto.Equal(u.spec, other.spec) }

// seconds is a duration as the configuration writes it.
func seconds(d time.Duration) string { return fmt.Sprintf("%gs", d.Seconds()) }
