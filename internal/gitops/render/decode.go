package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// Manifests decodes files of raw manifests: YAML documents and JSON values, any number in a file. Lists are taken apart, documents
// without content are left out. Scalars mean what they mean to kubectl. The error is a *UserError.
func Manifests(files []File, l Limits) ([]Object, error) {
	l = l.orDefaults()
	if err := l.check(files); err != nil {
		return nil, err
	}
	d := decoder{limits: l}
	for _, f := range files {
		if err := d.file(f.Path, f.Data); err != nil {
			return nil, err
		}
	}
	return d.objects, nil
}

// decoder collects the objects of one call.
type decoder struct {
	limits  Limits
	cost    int64
	objects []Object
	// rendered: the text was made by a library, lines of it mean nothing to the user.
	rendered bool
}

// file decodes all documents of a text that comes from the named file.
func (d *decoder) file(name string, data []byte) error {
	if !utf8.Valid(data) {
		return mistake(name, 0, "is not UTF-8 text")
	}
	for _, doc := range split(data) {
		before := len(d.objects)
		err := d.document(name, doc)
		if d.rendered {
			var user *UserError
			if errors.As(err, &user) {
				user.Line = 0
			}
			for i := range d.objects[before:] {
				d.objects[before+i].Line = 0
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) document(name string, doc document) error {
	if isJSON, err := d.json(name, doc); isJSON || err != nil {
		return err
	}
	node, cost, err := parseYAML(doc, room{d.cost, d.limits.RenderedBytes})
	if err != nil {
		return userError(name, err)
	}
	if node == nil {
		return nil
	}
	d.cost += cost
	content := node.Content[0]
	if content.Kind == yaml.ScalarNode && content.Tag == "!!null" {
		return nil
	}
	line := doc.at(content)
	if content.Kind != yaml.MappingNode {
		return mistake(name, line, "is not an object but %s", kindName(content.Kind))
	}
	text, err := kyaml.YAMLToJSONStrict(doc.text)
	if err != nil {
		line, reason := errorLine(err, doc.line)
		return mistake(name, line, "%s", reason)
	}
	var value map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &value); err != nil {
		return mistake(name, line, "%s", err)
	}
	return d.add(place{name, line, doc, content}, value, 0)
}

func kindName(kind yaml.Kind) string {
	if kind == yaml.SequenceNode {
		return "a list"
	}
	return "a single value"
}

// json decodes a document that is one or more JSON objects; false: it is not, and may be YAML.
func (d *decoder) json(name string, doc document) (bool, error) {
	text := bytes.TrimLeft(doc.text, " \t\r\n")
	if len(text) == 0 || text[0] != '{' {
		return false, nil
	}
	if err := countMarks(text, doc.line); err != nil {
		return true, userError(name, err)
	}
	values, lines, err := jsonValues(text, doc.line+bytes.Count(doc.text[:len(doc.text)-len(text)], []byte("\n")))
	if err != nil {
		if strings.HasSuffix(name, ".json") {
			return true, mistake(name, lines[len(lines)-1], "is not JSON: %s", err)
		}
		return false, nil
	}
	for i, raw := range values {
		var value any
		duplicates, err := kjson.UnmarshalStrict(raw, &value)
		if err == nil {
			err = errors.Join(duplicates...)
		}
		if err != nil {
			return true, mistake(name, lines[i], "%s", err)
		}
		object, ok := value.(map[string]any)
		if !ok {
			return true, mistake(name, lines[i], "is not an object")
		}
		size := valueExtent(object)
		if size.height > maxDepth {
			return true, mistake(name, lines[i], "values are nested more than %d deep", maxDepth)
		}
		if d.cost += size.cost; d.cost > d.limits.RenderedBytes {
			return true, mistake(name, lines[i], "the objects grow to more than %d bytes, the limit on what is rendered", d.limits.RenderedBytes)
		}
		if err := d.add(place{name, lines[i], doc, nil}, object, 0); err != nil {
			return true, err
		}
	}
	return true, nil
}

// jsonValues cuts text into JSON values and says on which line each begins; of an error, the last line is where it is.
func jsonValues(text []byte, line int) ([]json.RawMessage, []int, error) {
	stream := json.NewDecoder(bytes.NewReader(text))
	var values []json.RawMessage
	lines := []int{}
	at := 0
	for {
		var raw json.RawMessage
		err := stream.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return values, lines, nil
		}
		end := int(stream.InputOffset())
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			end = min(int(syntax.Offset), len(text))
		} else if err == nil {
			end -= len(raw)
		}
		line += bytes.Count(text[at:max(at, end)], []byte("\n"))
		at = max(at, end)
		lines = append(lines, line)
		if err != nil {
			return nil, lines, err
		}
		values = append(values, raw)
	}
}

func valueExtent(v any) extent {
	size := extent{cost: nodeCost}
	grow := func(inner extent) {
		size.cost += inner.cost
		size.height = max(size.height, inner.height)
	}
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			size.cost += nodeCost + int64(len(key))
			grow(valueExtent(inner))
		}
	case []any:
		for _, inner := range v {
			grow(valueExtent(inner))
		}
	case string:
		size.cost += int64(len(v))
	}
	size.height++
	return size
}

// place is where an object stands.
type place struct {
	file string
	line int
	// node is the object in doc, or nil.
	doc  document
	node *yaml.Node
}

// item is the place of an item of a list.
func (p place) item(index int) place {
	inner := place{p.file, p.line, p.doc, nil}
	if p.node == nil || p.node.Kind != yaml.MappingNode {
		return inner
	}
	for i := 0; i+1 < len(p.node.Content); i += 2 {
		items := p.node.Content[i+1]
		if p.node.Content[i].Value != "items" || index >= len(items.Content) {
			continue
		}
		inner.node = items.Content[index]
		inner.line = p.doc.at(inner.node)
	}
	return inner
}

func (p place) mistake(object, format string, args ...any) error {
	return &UserError{File: p.file, Line: p.line, Object: object, Reason: shorten(fmt.Sprintf(format, args...))}
}
