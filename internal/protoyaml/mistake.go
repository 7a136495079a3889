package protoyaml

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Mistake is one thing that is wrong in a file. Its text never repeats a value of the file.
type Mistake struct {
	// Path of the key, for example "ci_access.projects[0].id"; empty for the file as a whole.
	Path string
	// Line in the file, from 1; 0 if it is not known.
	Line int
	Msg  string
}

func (m Mistake) String() string {
	where := m.Path
	if m.Line > 0 {
		line := "line " + strconv.Itoa(m.Line)
		if where == "" {
			where = line
		} else {
			where += " (" + line + ")"
		}
	}
	if where == "" {
		return m.Msg
	}
	return where + ": " + m.Msg
}

// Mistakes are all the mistakes of a file, as an error.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	texts := make([]string, len(m))
	for i, one := range m {
		texts[i] = one.String()
	}
	return strings.Join(texts, "; ")
}

// Positions tells on which line a path stands.
type Positions map[string]int

// Line finds the line of a path or, for a key that is missing, that of the nearest key around it; 0 if there is none.
func (p Positions) Line(path string) int {
	for {
		if line, ok := p[path]; ok || path == "" {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// At places a complaint about a path.
func (p Positions) At(path, format string, args ...any) Mistake {
	return Mistake{Path: path, Line: p.Line(path), Msg: fmt.Sprintf(format, args...)}
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// join appends a key to a path. A key that is not a plain name is quoted and shortened, so that a path stays one short line.
func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = shorten(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// shorten quotes a key and bounds its length.
func shorten(key string) string {
	const keep = 60
	if len(key) > keep {
		key = strings.ToValidUTF8(key[:keep], "") + "…"
	}
	return strconv.Quote(key)
}
