package engine

import (
	"fmt"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/render"
)

// Bounds of what is taken in before anything looks at it, when Setup names none.
const (
	defaultFileBytes  = 5 << 20
	defaultTotalBytes = 20 << 20
	defaultFiles      = 1000
)

// job is what was announced for a worker: what to synchronise, and its files by source.
type job struct {
	begin *engine.Begin
	files map[int32][]render.File

	limits render.Limits
	total  int64
	count  int
	err    error // a limit was exceeded; further files are dropped
}

func newJob(begin *engine.Begin, limits *engine.Limits) *job {
	return &job{begin: begin, files: map[int32][]render.File{}, limits: render.Limits{
		FileBytes:     positive(limits.GetFileBytes(), defaultFileBytes),
		TotalBytes:    positive(limits.GetTotalBytes(), defaultTotalBytes),
		RenderedBytes: limits.GetRenderedBytes(),
		Files:         int(positive(limits.GetFiles(), defaultFiles)),
		Objects:       int(limits.GetObjects()),
	}}
}

func positive(n, byDefault int64) int64 {
	if n <= 0 {
		return byDefault
	}
	return n
}

// add takes a piece of a file.
func (j *job) add(f *engine.File) {
	if j.err != nil {
		return
	}
	source := j.files[f.GetSource()]
	if n := len(source); n == 0 || source[n-1].Path != f.GetPath() {
		if j.count++; j.count > j.limits.Files {
			j.refuse(f, fmt.Sprintf("there are more than %d files", j.limits.Files))
			return
		}
		source = append(source, render.File{Path: f.GetPath()})
	}
	last := &source[len(source)-1]
	j.total += int64(len(f.GetData()))
	switch {
	case int64(len(last.Data)+len(f.GetData())) > j.limits.FileBytes:
		j.refuse(f, fmt.Sprintf("is larger than %d bytes", j.limits.FileBytes))
		return
	case j.total > j.limits.TotalBytes:
		j.refuse(f, fmt.Sprintf("makes the files larger than %d bytes together", j.limits.TotalBytes))
		return
	}
	last.Data = append(last.Data, f.GetData()...)
	j.files[f.GetSource()] = source
}

func (j *job) refuse(f *engine.File, reason string) {
	j.err = &render.UserError{File: f.GetPath(), Reason: reason}
	j.files = nil
}
