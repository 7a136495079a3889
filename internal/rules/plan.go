package rules

import (
	"regexp"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"gitlab.com/agentk/agentk/api/rules"
)

// plan is what has to be looked at in a message: read once from its descriptor.
type plan struct {
	oneofs []oneof
	fields []field
}

type oneof struct {
	desc    protoreflect.OneofDescriptor
	members string
}

type field struct {
	desc protoreflect.FieldDescriptor
	// rule is nil for a field that is only descended into.
	rule    *rules.Field
	pattern *regexp.Regexp
	// nested says that the field holds messages to descend into.
	nested bool
}

// plans caches a plan per descriptor. Descriptors are constants of the program, so the cache is bounded and never stale.
var plans sync.Map // protoreflect.MessageDescriptor -> *plan

func planOf(md protoreflect.MessageDescriptor) *plan {
	if p, ok := plans.Load(md); ok {
		return p.(*plan)
	}
	p := &plan{}
	for i := range md.Oneofs().Len() {
		od := md.Oneofs().Get(i)
		if required, _ := proto.GetExtension(od.Options(), rules.E_Required).(bool); required {
			p.oneofs = append(p.oneofs, oneof{desc: od, members: members(od)})
		}
	}
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		f := field{desc: fd, nested: holdsMessages(fd)}
		if proto.HasExtension(fd.Options(), rules.E_Field) {
			f.rule, _ = proto.GetExtension(fd.Options(), rules.E_Field).(*rules.Field)
		}
		if pattern := f.rule.GetPattern(); pattern != "" {
			// A pattern that does not compile is a mistake in a .proto file of ours, found by the first test that uses it.
			f.pattern = regexp.MustCompile(pattern)
		}
		if f.rule != nil || f.nested {
			p.fields = append(p.fields, f)
		}
	}
	actual, _ := plans.LoadOrStore(md, p)
	return actual.(*plan)
}

// holdsMessages leaves out the well-known types: they have no constraints inside.
func holdsMessages(fd protoreflect.FieldDescriptor) bool {
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	md := fd.Message()
	return md != nil && md.FullName().Parent() != "google.protobuf"
}

func members(od protoreflect.OneofDescriptor) string {
	names := make([]string, od.Fields().Len())
	for i := range names {
		names[i] = string(od.Fields().Get(i).Name())
	}
	return strings.Join(names, ", ")
}
