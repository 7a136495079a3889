package protoyaml

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
)

// No complaint of this file repeats a value: a value may be a secret that was put in the wrong place.

func (d *decoder) scalar(n *yaml.Node, fd protoreflect.FieldDescriptor, path string, depth int) (protoreflect.Value, bool) {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return protoreflect.Value{}, false
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		s, ok := text(n)
		if !ok {
			d.mistake(path, n, "must be a string, not %s%s", describe(n), quoteHint(n))
		}
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		b, ok := boolean(n)
		if !ok {
			d.mistake(path, n, "must be true or false, not %s", describe(n))
		}
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.EnumKind:
		return d.enum(n, fd.Enum(), path)
	case protoreflect.DoubleKind:
		f, ok := float(n)
		if !ok {
			d.mistake(path, n, "must be a finite number, not %s", describe(n))
		}
		return protoreflect.ValueOfFloat64(f), ok
	default:
		return d.integer(n, fd.Kind(), path)
	}
}

func (d *decoder) enum(n *yaml.Node, ed protoreflect.EnumDescriptor, path string) (protoreflect.Value, bool) {
	if s, ok := text(n); ok {
		if v := ed.Values().ByName(protoreflect.Name(s)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	}
	names := make([]string, ed.Values().Len())
	for i := range names {
		names[i] = string(ed.Values().Get(i).Name())
	}
	d.mistake(path, n, "must be one of %s", strings.Join(names, ", "))
	return protoreflect.Value{}, false
}

func (d *decoder) integer(n *yaml.Node, kind protoreflect.Kind, path string) (protoreflect.Value, bool) {
	i, ok := whole(n)
	if !ok {
		d.mistake(path, n, "must be a whole number, not %s", describe(n))
		return protoreflect.Value{}, false
	}
	low, high := int64(math.MinInt64), int64(math.MaxInt64)
	var v protoreflect.Value
	switch kind {
	case protoreflect.Int32Kind:
		low, high, v = math.MinInt32, math.MaxInt32, protoreflect.ValueOfInt32(int32(i))
	case protoreflect.Uint32Kind:
		low, high, v = 0, math.MaxUint32, protoreflect.ValueOfUint32(uint32(i))
	case protoreflect.Int64Kind:
		v = protoreflect.ValueOfInt64(i)
	default:
		d.mistake(path, n, "keys of this kind are not supported")
		return v, false
	}
	if i < low || i > high {
		d.mistake(path, n, "must be a whole number from %d to %d", low, high)
		return v, false
	}
	return v, true
}

// text is the value of a YAML string. What YAML takes for a timestamp when it is not quoted is a string here too.
func text(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode || !utf8.ValidString(n.Value) {
		return "", false
	}
	tag := n.ShortTag()
	return n.Value, tag == "!!str" || tag == "!!timestamp" || tag == "!!merge"
}

// boolean also takes the YAML 1.1 words, unquoted, as the converters of older versions did.
func boolean(n *yaml.Node) (value, ok bool) {
	if n.Kind != yaml.ScalarNode {
		return false, false
	}
	if tag := n.ShortTag(); tag != "!!bool" && (tag != "!!str" || n.Style != 0) {
		return false, false
	}
	switch strings.ToLower(n.Value) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	default:
		return false, false
	}
}

// whole reads an integer from a number or from a string of digits.
func whole(n *yaml.Node) (int64, bool) {
	if n.Kind != yaml.ScalarNode {
		return 0, false
	}
	switch n.ShortTag() {
	case "!!int":
		var i int64
		err := n.Decode(&i)
		return i, err == nil
	case "!!str":
		i, err := strconv.ParseInt(n.Value, 10, 64)
		return i, err == nil && n.Value[0] != '+'
	case "!!float":
		f, ok := float(n)
		// 2^53 is the last number up to which every integer has its own float64.
		return int64(f), ok && f == math.Trunc(f) && math.Abs(f) <= 1<<53
	default:
		return 0, false
	}
}

func float(n *yaml.Node) (float64, bool) {
	if n.Kind != yaml.ScalarNode {
		return 0, false
	}
	var f float64
	switch n.ShortTag() {
	case "!!int", "!!float":
		if err := n.Decode(&f); err != nil {
			return 0, false
		}
	case "!!str":
		var err error
		if f, err = strconv.ParseFloat(n.Value, 64); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	return f, !math.IsNaN(f) && !math.IsInf(f, 0)
}

func isNull(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// describe names the kind of a value for a user.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return "a string"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "null"
	default:
		return "a value with a tag"
	}
}

func quoteHint(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	return "; write it in quotes"
}

// fromJSON fills a duration or timestamp, whose text forms the protobuf library knows exactly.
func (d *decoder) fromJSON(n *yaml.Node, m protoreflect.Message, path, want string) {
	s, ok := text(n)
	if !ok {
		d.mistake(path, n, "%s", want)
		return
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		d.mistake(path, n, "%s", want)
		return
	}
	fresh := m.New().Interface()
	if err = protojson.Unmarshal(quoted, fresh); err != nil {
		d.mistake(path, n, "%s", want)
		return
	}
	proto.Merge(m.Interface(), fresh)
}
