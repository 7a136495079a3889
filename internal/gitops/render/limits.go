package render

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// File is a file of a repository.
type File struct {
	// Path inside the repository: slash separated, cleaned.
	Path string
	Data []byte
}

// Limits bound what one call reads and makes. Zero means the default.
type Limits struct {
	// FileBytes is the size of the largest file, 5 MiB by default.
	FileBytes int64
	// TotalBytes is the size of all files together, 20 MiB by default. What packed sub-charts unpack to counts, too.
	TotalBytes int64
	// RenderedBytes is the size of all objects together, 64 MiB by default: of text, with aliases expanded, and 16 bytes for every value.
	RenderedBytes int64
	// Files is the number of files, 1000 by default, and the number of times that kustomizations are built for one another.
	Files int
	// Objects is the number of objects, 10 000 by default.
	Objects int
}

func (l Limits) orDefaults() Limits {
	for _, v := range []struct {
		value    *int64
		fallback int64
	}{{&l.FileBytes, 5 << 20}, {&l.TotalBytes, 20 << 20}, {&l.RenderedBytes, 64 << 20}} {
		if *v.value <= 0 {
			*v.value = v.fallback
		}
	}
	if l.Files <= 0 {
		l.Files = 1000
	}
	if l.Objects <= 0 {
		l.Objects = 10_000
	}
	return l
}

// UserError is a mistake in the repository: trying again with the same files is of no use. Fields that do not apply are empty.
type UserError struct {
	File string
	Line int
	// Object is kind and name of the object that is wrong.
	Object string
	Reason string
}

// Error is "file:line: object: reason".
func (e *UserError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	for _, part := range []string{e.Object, e.Reason} {
		if part == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(part)
	}
	return b.String()
}

func mistake(file string, line int, format string, args ...any) *UserError {
	return &UserError{File: file, Line: line, Reason: shorten(fmt.Sprintf(format, args...))}
}

// maxReason bounds a reason: libraries quote whole files.
const maxReason = 1500

func shorten(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if len(s) <= maxReason {
		return s
	}
	cut := maxReason
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + " ..."
}

// check looks at names and sizes; it reads no file.
func (l Limits) check(files []File) error {
	if len(files) > l.Files {
		return mistake(files[l.Files].Path, 0, "the repository has more files to read than the limit on files, %d", l.Files)
	}
	seen := make(map[string]bool, len(files))
	var total int64
	for _, f := range files {
		if !cleanPath(f.Path) {
			return mistake(fmt.Sprintf("%.200q", f.Path), 0, "is not the path of a file in a repository")
		}
		if seen[f.Path] {
			return mistake(f.Path, 0, "was given twice")
		}
		seen[f.Path] = true
		size := int64(len(f.Data))
		if size > l.FileBytes {
			return mistake(f.Path, 0, "has %d bytes; the limit on one file is %d", size, l.FileBytes)
		}
		if total += size; total > l.TotalBytes {
			return mistake(f.Path, 0, "with it the files have more than %d bytes, the limit on all files together", l.TotalBytes)
		}
	}
	return nil
}

// cleanPath says whether p can be the path of a file in a tree.
func cleanPath(p string) bool {
	return p != "" && p != "." && p != ".." && !strings.HasPrefix(p, "../") && !path.IsAbs(p) && path.Clean(p) == p &&
		!strings.ContainsRune(p, 0)
}
