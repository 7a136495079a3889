package render

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	kyaml "sigs.k8s.io/yaml"
)

// Chart is a Helm chart in a directory of a repository, and what it is rendered with.
type Chart struct {
	// Dir is the chart's directory; Files are those of the repository, and the ones outside of Dir are ignored.
	Dir   string
	Files []File
	// ReleaseName and Namespace are of the release. No namespace: "default".
	ReleaseName, Namespace string
	// Values are YAML documents. Where two say different things the later one wins, mappings are joined.
	Values [][]byte
	// KubeVersion is the API server's, like "v1.36.3".
	KubeVersion string
	// APIVersions are what the API server has, as "v1", "apps/v1" and "apps/v1/Deployment". None: those that Helm assumes offline.
	APIVersions []string
}

// Release is a rendered chart.
type Release struct {
	// Objects are those of crds/ first, then those of templates in Helm's order of installation. Hooks are never among them.
	Objects []Object
	// CRDs is the number of objects that come from crds/.
	CRDs int
	// Tests are the test hooks that were left out: "<template>: <kind> <name>".
	Tests []string

	Name, Namespace         string
	ChartName, ChartVersion string
	// Config is the values, joined, without the chart's own defaults.
	Config map[string]any
	// Manifest is the text of all objects but those of crds/, as Helm keeps it.
	Manifest string

	chart *chart.Chart
}

// RenderChart renders a chart as "helm template --include-crds --skip-tests" does: as a first installation, whatever is in the cluster. "lookup" finds
// nothing, notes are left out. Hooks are refused by name, but for those of tests, which are left out.
//
// Errors of the repository or the values are a *UserError; ErrStuck is explained there.
func RenderChart(ctx context.Context, c Chart, l Limits) (Release, error) {
	l = l.orDefaults()
	dir, ok := cleanDir(c.Dir)
	if !ok {
		return Release{}, mistake("", 0, "%.200q is not a directory of a repository", c.Dir)
	}
	if c.Namespace == "" {
		c.Namespace = "default"
	}
	if err := chartutil.ValidateReleaseName(c.ReleaseName); err != nil {
		return Release{}, mistake("", 0, "release_name %.100q: %s", c.ReleaseName, err)
	}
	if err := l.check(c.Files); err != nil {
		return Release{}, err
	}
	caps := chartutil.DefaultCapabilities.Copy()
	version, err := chartutil.ParseKubeVersion(c.KubeVersion)
	if err != nil {
		return Release{}, fmt.Errorf("version of the API server: %w", err)
	}
	caps.KubeVersion = *version
	if len(c.APIVersions) > 0 {
		caps.APIVersions = c.APIVersions
	}
	r := renderer{spec: c, dir: dir, limits: l, caps: caps}
	if err := guard(ctx, path.Join(dir, chartutil.ChartfileName), r.run); err != nil {
		return Release{}, err
	}
	return r.release, nil
}

type renderer struct {
	spec    Chart
	dir     string
	limits  Limits
	caps    *chartutil.Capabilities
	chart   *chart.Chart
	release Release
}

func (r *renderer) run() error {
	config, err := joinValues(r.spec.Values, r.limits)
	if err != nil {
		return err
	}
	if r.chart, err = loadChart(r.dir, r.spec.Files, r.limits); err != nil {
		return err
	}
	r.release = Release{
		Name: r.spec.ReleaseName, Namespace: r.spec.Namespace, ChartName: r.chart.Metadata.Name, ChartVersion: r.chart.Metadata.Version,
		Config: config, chart: r.chart,
	}
	if err := r.checkChart(); err != nil {
		return err
	}
	if err := chartutil.ProcessDependenciesWithMerge(r.chart, config); err != nil {
		return r.mistake(err)
	}
	options := chartutil.ReleaseOptions{Name: r.spec.ReleaseName, Namespace: r.spec.Namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValuesWithSchemaValidation(r.chart, config, options, r.caps, true)
	if err != nil {
		return r.mistake(err)
	}
	if err := r.validate(r.chart, r.dir, values["Values"].(chartutil.Values)); err != nil {
		return err
	}
	files, err := engine.Engine{}.Render(r.chart, values)
	if err != nil {
		return r.mistake(err)
	}
	return r.collect(files)
}

// checkChart refuses charts that cannot be installed, and those that are not all there.
func (r *renderer) checkChart() error {
	file := path.Join(r.dir, chartutil.ChartfileName)
	meta := r.chart.Metadata
	if meta.Type != "" && meta.Type != "application" {
		return mistake(file, 0, "is a chart of type %.50q, which makes no release: only other charts can use it", meta.Type)
	}
	if meta.KubeVersion != "" && !chartutil.IsCompatibleRange(meta.KubeVersion, r.caps.KubeVersion.String()) {
		return mistake(file, 0, "needs Kubernetes %.100q; the cluster has %s", meta.KubeVersion, r.caps.KubeVersion.String())
	}
	for _, need := range meta.Dependencies {
		found, fits := "", false
		for _, sub := range r.chart.Dependencies() {
			if sub.Name() == need.Name {
				found = sub.Metadata.Version
				fits = fits || need.Version == "" || chartutil.IsCompatibleRange(need.Version, sub.Metadata.Version)
			}
		}
		if found == "" {
			return mistake(file, 0, "depends on chart %.100q, which charts/ does not have; nothing is downloaded: commit it (helm dependency update)", need.Name)
		}
		if !fits {
			return mistake(file, 0, "depends on chart %.100q in version %.50q; charts/ has %.50q", need.Name, need.Version, found)
		}
	}
	return nil
}

// collect makes objects of what the templates made.
func (r *renderer) collect(files map[string]string) error {
	var total int64
	for name, content := range files {
		if total += int64(len(content)); total > r.limits.RenderedBytes {
			return mistake(r.file(name), 0, "with it the templates make more than %d bytes, the limit on what is rendered", r.limits.RenderedBytes)
		}
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	if err := r.hooks(files); err != nil {
		return err
	}
	_, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return r.mistake(err)
	}
	d := decoder{limits: r.limits, rendered: true}
	for _, crd := range r.chart.CRDObjects() {
		if err := d.file(r.file(crd.Filename), crd.File.Data); err != nil {
			return err
		}
	}
	r.release.CRDs = len(d.objects)
	var manifest strings.Builder
	for _, m := range manifests {
		// The last line break matters to a block scalar; Helm cuts it off and puts it back.
		if err := d.file(r.file(m.Name), []byte(m.Content+"\n")); err != nil {
			return err
		}
		fmt.Fprintf(&manifest, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	r.release.Objects, r.release.Manifest = d.objects, manifest.String()
	return nil
}

// hooks finds objects that Helm would run at a moment of a release's life. There is no such moment here: applying them all the
// time, or never, would both be wrong. Only tests are run by hand anyway.
func (r *renderer) hooks(files map[string]string) error {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	var refused []string
	for _, name := range names {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		for _, text := range releaseutil.SplitManifests(files[name]) {
			var head releaseutil.SimpleHead
			if err := kyaml.Unmarshal([]byte(text), &head); err != nil || head.Metadata == nil {
				// Reported with its place when the text is decoded.
				continue
			}
			hook, isHook := head.Metadata.Annotations[release.HookAnnotation]
			if !isHook {
				continue
			}
			what := fmt.Sprintf("%s: %s", r.file(name), describe(head.Kind, "", head.Metadata.Name))
			if hook = strings.ToLower(strings.TrimSpace(hook)); hook == "test" || hook == "test-success" {
				r.release.Tests = append(r.release.Tests, what)
			} else {
				refused = append(refused, fmt.Sprintf("%s (%s)", what, hook))
			}
		}
	}
	sort.Strings(refused)
	sort.Strings(r.release.Tests)
	if len(refused) > 0 {
		return mistake(path.Join(r.dir, chartutil.ChartfileName), 0, "the chart has hooks, which are not run: %s", strings.Join(refused, ", "))
	}
	return nil
}

// file is the path in the repository of a file that Helm names after the chart. Of a packed sub-chart, it is what it would be unpacked.
func (r *renderer) file(name string) string {
	return path.Join(r.dir, strings.TrimPrefix(name, r.chart.Metadata.Name+"/"))
}

// mistake finds template and line in one of Helm's messages.
func (r *renderer) mistake(err error) error {
	var user *UserError
	if errors.As(err, &user) {
		return err
	}
	at := regexp.MustCompile(regexp.QuoteMeta(r.chart.Metadata.Name) + `/((?:charts/[^/:]+/)*(?:templates|crds)/[^:()]+)(?::(\d+))?`)
	found := at.FindStringSubmatch(err.Error())
	if found == nil {
		return mistake(path.Join(r.dir, chartutil.ChartfileName), 0, "%s", err)
	}
	line := 0
	if found[2] != "" {
		if n, convErr := strconv.Atoi(found[2]); convErr == nil {
			line = n
		}
	}
	return mistake(path.Join(r.dir, found[1]), line, "%s", err)
}

// joinValues reads values and lays each over those before it.
func joinValues(values [][]byte, l Limits) (map[string]any, error) {
	joined := map[string]any{}
	var total, cost int64
	for i, text := range values {
		name := fmt.Sprintf("values[%d]", i)
		if size := int64(len(text)); size > l.FileBytes {
			return nil, mistake(name, 0, "has %d bytes; the limit on one file is %d", size, l.FileBytes)
		}
		if total += int64(len(text)); total > l.TotalBytes {
			return nil, mistake(name, 0, "with it the values have more than %d bytes, the limit on all files together", l.TotalBytes)
		}
		grown, err := measureText(text, room{cost, l.RenderedBytes})
		if err != nil {
			return nil, userError(name, err)
		}
		cost += grown
		var next map[string]any
		if err := kyaml.Unmarshal(text, &next); err != nil {
			line, reason := errorLine(err, 1)
			return nil, mistake(name, line, "%s", reason)
		}
		joined = overlay(joined, next)
	}
	return joined, nil
}

func overlay(under, over map[string]any) map[string]any {
	out := make(map[string]any, len(under)+len(over))
	for key, value := range under {
		out[key] = value
	}
	for key, value := range over {
		inner, isMap := value.(map[string]any)
		below, wasMap := out[key].(map[string]any)
		if isMap && wasMap {
			out[key] = overlay(below, inner)
			continue
		}
		out[key] = value
	}
	return out
}
