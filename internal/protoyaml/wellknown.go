package protoyaml

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"gopkg.in/yaml.v3"
)

type readWellKnown func(d *decoder, n *yaml.Node, m protoreflect.Message, path string, depth int)

// wellKnown are the messages that are not written as a mapping of their fields.
var wellKnown = map[protoreflect.FullName]readWellKnown{
	"google.protobuf.Duration": func(d *decoder, n *yaml.Node, m protoreflect.Message, path string, _ int) {
		d.fromJSON(n, m, path, `must be a duration in seconds such as "300s" or "1.5s"`)
	},
	"google.protobuf.Timestamp": func(d *decoder, n *yaml.Node, m protoreflect.Message, path string, _ int) {
		d.fromJSON(n, m, path, `must be a time such as "2030-01-31T12:00:00Z"`)
	},
	"google.protobuf.Value": func(d *decoder, n *yaml.Node, m protoreflect.Message, path string, depth int) {
		v, ok := m.Interface().(*structpb.Value)
		if !ok {
			d.mistake(path, n, "keys of this kind are not supported")
			return
		}
		v.Kind = d.free(n, path, depth).GetKind()
	},
	"google.protobuf.Struct": func(d *decoder, n *yaml.Node, m protoreflect.Message, path string, depth int) {
		s, ok := m.Interface().(*structpb.Struct)
		if !ok {
			d.mistake(path, n, "keys of this kind are not supported")
			return
		}
		s.Fields = d.free(n, path, depth).GetStructValue().GetFields()
		if n.Kind != yaml.MappingNode {
			d.mistake(path, n, "must be a mapping of keys to values, not %s", describe(n))
		}
	},
}

// free reads a value without a schema.
func (d *decoder) free(n *yaml.Node, path string, depth int) *structpb.Value {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return structpb.NewNullValue()
	}
	switch n.Kind {
	case yaml.MappingNode:
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, p := range d.pairs(n, path, depth) {
			d.follow(p, func() { s.Fields[p.name] = d.free(p.value, join(path, p.name), depth+1) })
		}
		return structpb.NewStructValue(s)
	case yaml.SequenceNode:
		list := &structpb.ListValue{}
		for _, item := range n.Content {
			list.Values = append(list.Values, d.free(item, path, depth+1))
		}
		return structpb.NewListValue(list)
	default:
		return d.freeScalar(n, path)
	}
}

func (d *decoder) freeScalar(n *yaml.Node, path string) *structpb.Value {
	if s, ok := text(n); ok {
		return structpb.NewStringValue(s)
	}
	switch n.ShortTag() {
	case "!!null":
		return structpb.NewNullValue()
	case "!!bool":
		if b, ok := boolean(n); ok {
			return structpb.NewBoolValue(b)
		}
	case "!!int", "!!float":
		if f, ok := float(n); ok {
			return structpb.NewNumberValue(f)
		}
	}
	d.mistake(path, n, "must be a plain value, not %s", describe(n))
	return structpb.NewNullValue()
}
