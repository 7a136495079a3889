package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/ignore"
)

// chartYAML are the files of a chart that the library parses while it loads it.
var chartYAML = []string{"Chart.yaml", "Chart.lock", "values.yaml", "requirements.yaml", "requirements.lock"}

// maxPacked bounds charts packed into charts.
const maxPacked = 8

// loadChart reads the chart in dir. The error is a *UserError.
func loadChart(dir string, files []File, l Limits) (*chart.Chart, error) {
	chartFile := path.Join(dir, chartutil.ChartfileName)
	inside, err := chartFiles(dir, files)
	if err != nil {
		return nil, err
	}
	check := chartCheck{limits: l}
	for _, f := range inside {
		check.unpacked += int64(len(f.Data))
	}
	hasChart := false
	for _, f := range inside {
		hasChart = hasChart || f.Name == chartutil.ChartfileName
		if err := check.file(path.Join(dir, f.Name), f.Data, 0); err != nil {
			return nil, err
		}
	}
	if !hasChart {
		return nil, mistake(chartFile, 0, "is not a file in this commit: the directory is not that of a chart")
	}
	made, err := loader.LoadFiles(inside)
	if err != nil {
		return nil, mistake(chartFile, 0, "%s", err)
	}
	return made, nil
}

// chartFiles are the files below dir that .helmignore leaves.
func chartFiles(dir string, files []File) ([]*loader.BufferedFile, error) {
	rules := ignore.Empty()
	for _, f := range files {
		if f.Path != path.Join(dir, ignore.HelmIgnore) {
			continue
		}
		parsed, err := ignore.Parse(bytes.NewReader(f.Data))
		if err != nil {
			return nil, mistake(f.Path, 0, "%s", err)
		}
		rules = parsed
	}
	rules.AddDefaults()
	var inside []*loader.BufferedFile
	for _, f := range files {
		if !within(f.Path, dir) || f.Path == dir {
			continue
		}
		name := f.Path
		if dir != "" {
			name = f.Path[len(dir)+1:]
		}
		if !ignored(rules, name) {
			inside = append(inside, &loader.BufferedFile{Name: name, Data: bytes.TrimPrefix(f.Data, byteOrderMark)})
		}
	}
	return inside, nil
}

// ignored says whether the rules leave out a file or a directory on the way to it.
func ignored(rules *ignore.Rules, name string) bool {
	for i := range name {
		if name[i] == '/' && rules.Ignore(name[:i], fileInfo{path.Base(name[:i]), true}) {
			return true
		}
	}
	return rules.Ignore(name, fileInfo{path.Base(name), false})
}

// fileInfo is what the rules ask of a file.
type fileInfo struct {
	name string
	dir  bool
}

func (f fileInfo) Name() string       { return f.name }
func (f fileInfo) Size() int64        { return 0 }
func (f fileInfo) ModTime() time.Time { return time.Time{} }
func (f fileInfo) IsDir() bool        { return f.dir }
func (f fileInfo) Sys() any           { return nil }

func (f fileInfo) Mode() fs.FileMode {
	if f.dir {
		return fs.ModeDir
	}
	return 0
}

// chartCheck looks at a chart before the library does.
type chartCheck struct {
	limits Limits
	// unpacked is the size of all files and of what packed charts unpack to; packed is the number of the latter.
	unpacked int64
	packed   int
	// cost is what YAML grows to.
	cost int64
}

// errUnpacked ends the unpacking of too much.
var errUnpacked = errors.New("unpacks to too much")

// unpacking counts what is read of an archive, and ends when it is too much.
type unpacking struct {
	from  io.Reader
	check *chartCheck
}

func (u unpacking) Read(p []byte) (int, error) {
	if u.check.unpacked > u.check.limits.TotalBytes {
		return 0, errUnpacked
	}
	n, err := u.from.Read(p)
	u.check.unpacked += int64(n)
	return n, err
}

// file checks one file; depth is how many archives it is in.
func (c *chartCheck) file(name string, data []byte, depth int) error {
	parent, base := path.Split(name)
	if path.Ext(base) == ".tgz" && path.Base(parent) == "charts" {
		if depth >= maxPacked {
			return mistake(name, 0, "charts are packed into charts more than %d deep", maxPacked)
		}
		return c.archive(name, data, depth)
	}
	for _, known := range chartYAML {
		if base != known {
			continue
		}
		grown, err := measureText(data, room{c.cost, c.limits.RenderedBytes})
		if err != nil {
			return userError(name, err)
		}
		c.cost += grown
	}
	return nil
}

// archive checks a packed chart by unpacking it, one file at a time.
func (c *chartCheck) archive(name string, data []byte, depth int) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return mistake(name, 0, "is not a packed chart: %s", err)
	}
	entries := tar.NewReader(unpacking{unzipped, c})
	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.unreadable(name, err)
		}
		if c.packed++; c.packed > c.limits.Files {
			return mistake(name, 0, "packed charts have more files than the limit on files, %d", c.limits.Files)
		}
		if entry.Size > c.limits.FileBytes {
			return mistake(name, 0, "%.200q in it has %d bytes; the limit on one file is %d", entry.Name, entry.Size, c.limits.FileBytes)
		}
		content, err := io.ReadAll(entries)
		if err != nil {
			return c.unreadable(name, err)
		}
		if err := c.file(name+"/"+strings.ReplaceAll(entry.Name, `\`, "/"), content, depth+1); err != nil {
			return err
		}
	}
}

func (c *chartCheck) unreadable(name string, err error) error {
	if errors.Is(err, errUnpacked) {
		return mistake(name, 0, "unpacks to more than %d bytes, the limit on all files together", c.limits.TotalBytes)
	}
	return mistake(name, 0, "is not a packed chart: %s", err)
}
