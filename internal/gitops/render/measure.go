package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	// nodeCost is what a value costs besides its text.
	nodeCost = 16
	// maxMarks bounds the characters of one document that can begin a value, and so the memory of parsing it: an object that an API
	// server takes has not a tenth of it.
	maxMarks = 1 << 20
	// maxDepth bounds nesting, through aliases, too.
	maxDepth = 250
)

// boundError is a document that is well formed, as far as is known, and too big.
type boundError struct {
	line   int
	reason string
}

func (e *boundError) Error() string { return e.reason }

// syntaxError is text that is not YAML.
type syntaxError struct {
	line   int
	reason string
}

func (e *syntaxError) Error() string { return e.reason }

// userError gives the mistake a place.
func userError(file string, err error) error {
	var bound *boundError
	var syntax *syntaxError
	switch {
	case errors.As(err, &bound):
		return mistake(file, bound.line, "%s", bound.reason)
	case errors.As(err, &syntax):
		return mistake(file, syntax.line, "%s", syntax.reason)
	}
	return mistake(file, 0, "%s", err)
}

var libraryLine = regexp.MustCompile(`line (\d+): `)

// errorLine takes the line out of a YAML library's message; firstLine is that of the text's first line.
func errorLine(err error, firstLine int) (int, string) {
	message := err.Error()
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:\n  "} {
		message = strings.TrimPrefix(message, prefix)
	}
	found := libraryLine.FindStringSubmatchIndex(message)
	if found == nil {
		return firstLine, message
	}
	line, convErr := strconv.Atoi(message[found[2]:found[3]])
	if convErr != nil {
		return firstLine, message
	}
	return firstLine + max(line, 1) - 1, message[:found[0]] + message[found[1]:]
}

// countMarks says whether text is small enough to be parsed.
func countMarks(text []byte, line int) error {
	marks := 0
	for _, c := range text {
		switch c {
		case '\n', ',', '[', '{', '-', '?', ':':
			marks++
		}
	}
	if marks > maxMarks {
		return &boundError{line, fmt.Sprintf("the document has more than %d lines and values; split it", maxMarks)}
	}
	return nil
}

// room is what one call may make, and how much of that is taken.
type room struct{ taken, limit int64 }

// parseYAML parses one document and says what its content costs with all aliases expanded. A document without content is nil. The
// error is a *boundError or a *syntaxError.
func parseYAML(doc document, r room) (*yaml.Node, int64, error) {
	if err := countMarks(doc.text, doc.line); err != nil {
		return nil, 0, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(doc.text))
	var root, next yaml.Node
	err := decoder.Decode(&root)
	if errors.Is(err, io.EOF) {
		return nil, 0, nil
	}
	if err == nil && !errors.Is(decoder.Decode(&next), io.EOF) {
		err = errors.New("something follows the end of the document")
	}
	if err != nil {
		line, reason := errorLine(err, doc.line)
		return nil, 0, &syntaxError{min(line, doc.lastLine()), "is not YAML: " + reason}
	}
	m := measure{room: r, doc: doc, anchors: map[*yaml.Node]extent{}}
	size, err := m.node(&root)
	if err != nil {
		return nil, 0, err
	}
	if size.height > maxDepth {
		return nil, 0, &boundError{doc.line, fmt.Sprintf("values are nested more than %d deep", maxDepth)}
	}
	return &root, size.cost, nil
}

// at is the file's line of a node.
func (d document) at(n *yaml.Node) int { return min(d.line+n.Line-1, d.lastLine()) }

type extent struct {
	cost   int64
	height int
}

// measure adds up what nodes cost; every anchor is measured once, however often it is used.
type measure struct {
	room    room
	doc     document
	anchors map[*yaml.Node]extent
}

func (m *measure) node(n *yaml.Node) (extent, error) {
	size := extent{cost: nodeCost + int64(len(n.Value))}
	if n.Kind == yaml.AliasNode {
		target, ok := m.anchors[n.Alias]
		if !ok {
			return extent{}, &boundError{m.doc.at(n), fmt.Sprintf("alias %q stands for something that contains it", n.Value)}
		}
		size.cost += target.cost
		size.height = target.height
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Kind != yaml.ScalarNode && child.Kind != yaml.AliasNode {
			return extent{}, &syntaxError{m.doc.at(child), "has a key that is not a single value; is this a template?"}
		}
		inner, err := m.node(child)
		if err != nil {
			return extent{}, err
		}
		size.cost += inner.cost
		size.height = max(size.height, inner.height)
	}
	size.height++
	if size.cost > m.room.limit-m.room.taken {
		return extent{}, &boundError{
			m.doc.at(n),
			fmt.Sprintf("grows, with its aliases and what was before it, to more than %d bytes, the limit on what is rendered", m.room.limit),
		}
	}
	if n.Anchor != "" {
		m.anchors[n] = size
	}
	return size, nil
}

// measureText says what the YAML or JSON documents of text cost. JSON has no aliases: it is as big as it is.
func measureText(text []byte, r room) (int64, error) {
	before := r.taken
	for _, doc := range split(text) {
		if trimmed := bytes.TrimSpace(doc.text); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid(trimmed) {
			if err := countMarks(trimmed, doc.line); err != nil {
				return 0, err
			}
			r.taken += int64(len(trimmed))
			continue
		}
		_, cost, err := parseYAML(doc, r)
		if err != nil {
			return 0, err
		}
		r.taken += cost
	}
	return r.taken - before, nil
}
