// Package protoyaml turns the YAML of a configuration file into a protobuf message and back. It walks the YAML tree itself
// instead of going through JSON, because only the tree knows on which line a mistake is: every complaint names the path of
// the key and its line, and all of them come at once.
//
// Typing is that of the JSON form of protobuf: a string must be a YAML string, an enum is written by name, a duration is
// seconds with an "s" ("300s", "1.5s"), null means absent. Only the field names of the .proto files are keys.
package protoyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
)

const (
	// maxMistakes bounds what one file may be told; the first ones are the useful ones.
	maxMistakes = 20
	// maxWarnings bounds the unknown keys remembered for one file.
	maxWarnings = 100
	// maxDepth bounds nesting; it also ends aliases that contain themselves.
	maxDepth = 100
	// maxExpanded bounds the nodes reached through aliases and merge keys, so that a small file cannot grow without limit.
	maxExpanded = 50_000
)

// Options says how Decode treats keys it does not know. The zero value rejects them.
type Options struct {
	// WarnUnknown collects unknown keys in Result.Warnings instead of rejecting the file.
	WarnUnknown bool
	// Strict are paths below which unknown keys stay mistakes even with WarnUnknown, for example "standalone".
	Strict []string
	// Overlay is a second document that is laid over the first: mappings are joined, other values replaced, null leaves what
	// was there. Mistakes in it have no line.
	Overlay []byte
}

// Result is what Decode learned besides the message.
type Result struct {
	// Positions has the line of every key and list item that became part of the message.
	Positions Positions
	// Warnings are the unknown keys, with Options.WarnUnknown only.
	Warnings []Mistake
}

// Decode fills m, which should be empty, from one YAML document. An empty document or null leaves m empty. The error, if
// any, is of type Mistakes and lists every mistake found, up to a bound; m is then of no use.
func Decode(data []byte, m proto.Message, opt Options) (Result, error) {
	d := &decoder{opt: opt, positions: Positions{}}
	root, err := parse(data)
	if err != nil {
		return Result{Positions: d.positions}, err
	}
	if len(opt.Overlay) > 0 {
		over, err := parse(opt.Overlay)
		if err != nil {
			return Result{Positions: d.positions}, err
		}
		root = overlay(root, over)
	}
	if root != nil && !isNull(root) {
		d.message(root, m.ProtoReflect(), "", 0)
	}
	res := Result{Positions: d.positions, Warnings: d.warnings}
	if len(d.mistakes) > 0 {
		return res, d.mistakes
	}
	return res, nil
}

var syntaxLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// parse returns the root of the only document, or nil if there is none. More documents with nothing in them do no harm.
func parse(data []byte) (root *yaml.Node, err error) {
	// The parser reports by panic inside; one that it does not catch itself must not end the daemon on a user's file.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, Mistakes{{Msg: "not a YAML document that can be read"}}
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	root, _, err = document(dec)
	if err != nil {
		return nil, err
	}
	for {
		next, more, err := document(dec)
		switch {
		case err != nil:
			return nil, err
		case !more:
			return root, nil
		case next != nil && !isNull(next): // a separator at the end of the file begins one with nothing in it
			return nil, Mistakes{{Line: next.Line, Msg: "a second document starts here; the file must hold only one"}}
		}
	}
}

// document returns the root of the next document, nil if it has none; more says that there was a document.
func document(dec *yaml.Decoder) (root *yaml.Node, more bool, err error) {
	var doc yaml.Node
	err = dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return nil, false, nil
	case err != nil:
		return nil, false, syntaxMistake(err)
	case len(doc.Content) == 0:
		return nil, true, nil
	}
	return doc.Content[0], true, nil
}

func syntaxMistake(err error) Mistakes {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if f := syntaxLine.FindStringSubmatch(text); f != nil {
		if line, convErr := strconv.Atoi(f[1]); convErr == nil {
			return Mistakes{{Line: line, Msg: f[2]}}
		}
	}
	return Mistakes{{Msg: strings.TrimPrefix(text, "yaml: ")}}
}

// decoder is the state of one Decode.
type decoder struct {
	opt       Options
	positions Positions
	mistakes  Mistakes
	warnings  []Mistake
	// aliased counts the aliases and merge keys that are being followed; expanded the nodes seen meanwhile.
	aliased  int
	expanded int
	// ended says that a bound was reached and nothing more is looked at.
	ended bool
}

func (d *decoder) mistake(path string, n *yaml.Node, format string, args ...any) {
	if d.ended {
		return
	}
	d.mistakes = append(d.mistakes, Mistake{Path: path, Line: n.Line, Msg: fmt.Sprintf(format, args...)})
	if len(d.mistakes) == maxMistakes {
		d.mistakes = append(d.mistakes, Mistake{Msg: "too many mistakes; there may be more"})
		d.ended = true
	}
}

// enter follows an alias and counts the node against the bounds. leave must be called when the node is done with.
func (d *decoder) enter(n *yaml.Node, path string, depth int) (target *yaml.Node, leave func(), ok bool) {
	leave = func() {}
	if d.ended {
		return nil, leave, false
	}
	if depth > maxDepth {
		d.mistake(path, n, "nested too deeply")
		return nil, leave, false
	}
	if n.Kind == yaml.AliasNode {
		d.aliased++
		leave = func() { d.aliased-- }
		n = n.Alias
	}
	if !d.afford(n, path) {
		return nil, leave, false
	}
	return n, leave, true
}

// afford counts a node reached through an alias. Beyond the bound it complains and ends the walk.
func (d *decoder) afford(n *yaml.Node, path string) bool {
	if d.ended {
		return false
	}
	if d.aliased == 0 {
		return true
	}
	d.expanded++
	if d.expanded <= maxExpanded {
		return true
	}
	d.mistake(path, n, "aliases grow the file beyond %d values", maxExpanded)
	d.ended = true
	return false
}

func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path string, depth int) {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return
	}
	if read, known := wellKnown[m.Descriptor().FullName()]; known {
		read(d, n, m, path, depth)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.mistake(path, n, "must be a mapping of keys to values, not %s", describe(n))
		return
	}
	fields := m.Descriptor().Fields()
	oneofs := map[protoreflect.Name]bool{}
	for _, p := range d.pairs(n, path, depth) {
		if d.ended {
			return
		}
		fd := fields.ByName(protoreflect.Name(p.name))
		at := join(path, p.name)
		if fd == nil {
			d.unknown(at, p, fields)
			continue
		}
		if isNull(p.value) {
			continue
		}
		d.positions[at] = p.key.Line
		if od := fd.ContainingOneof(); od != nil && !od.IsSynthetic() {
			if oneofs[od.Name()] {
				d.mistake(at, p.key, "only one of %s may be set", memberNames(od))
				continue
			}
			oneofs[od.Name()] = true
		}
		d.follow(p, func() { d.field(p.value, m, fd, at, depth+1) })
	}
}

// follow walks a value; one that came by a merge key counts as reached through an alias.
func (d *decoder) follow(p pair, walk func()) {
	if p.merged {
		d.aliased++
		defer func() { d.aliased-- }()
	}
	walk()
}

func (d *decoder) field(n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string, depth int) {
	switch {
	case fd.IsMap():
		d.mapField(n, m.Mutable(fd).Map(), fd, path, depth)
	case fd.IsList():
		d.listField(n, m.Mutable(fd).List(), fd, path, depth)
	case fd.Message() != nil:
		d.message(n, m.Mutable(fd).Message(), path, depth)
	default:
		if v, ok := d.scalar(n, fd, path, depth); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) listField(n *yaml.Node, list protoreflect.List, fd protoreflect.FieldDescriptor, path string, depth int) {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.mistake(path, n, "must be a list, not %s", describe(n))
		return
	}
	for i, item := range n.Content {
		if d.ended {
			return
		}
		at := path + "[" + strconv.Itoa(i) + "]"
		d.positions[at] = item.Line
		if isNull(item) {
			d.mistake(at, item, "must not be empty")
			continue
		}
		if fd.Message() != nil {
			d.message(item, list.AppendMutable().Message(), at, depth+1)
		} else if v, ok := d.scalar(item, fd, at, depth+1); ok {
			list.Append(v)
		}
	}
}

func (d *decoder) mapField(n *yaml.Node, values protoreflect.Map, fd protoreflect.FieldDescriptor, path string, depth int) {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.mistake(path, n, "must be a mapping of keys to values, not %s", describe(n))
		return
	}
	if fd.MapKey().Kind() != protoreflect.StringKind {
		d.mistake(path, n, "keys of this kind are not supported")
		return
	}
	for _, p := range d.pairs(n, path, depth) {
		if d.ended {
			return
		}
		at := path + "[" + shorten(p.name) + "]"
		if isNull(p.value) {
			d.mistake(at, p.key, "must not be empty")
			continue
		}
		key := protoreflect.ValueOfString(p.name).MapKey()
		d.follow(p, func() {
			if fd.MapValue().Message() != nil {
				v := values.NewValue()
				d.message(p.value, v.Message(), at, depth+1)
				values.Set(key, v)
			} else if v, ok := d.scalar(p.value, fd.MapValue(), at, depth+1); ok {
				values.Set(key, v)
			}
		})
	}
}
