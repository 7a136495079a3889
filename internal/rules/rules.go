// Package rules checks messages against the constraints that stand beside their fields in the .proto files (api/rules). All
// violations are found, not only the first, so that a user can mend a file in one go.
package rules

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/rules"
)

// Violation is one broken constraint. Its text never repeats the value.
type Violation struct {
	// Path of the field, for example "ci_access.projects[0].id"; empty for the message itself.
	Path string
	Msg  string
}

func (v Violation) String() string {
	if v.Path == "" {
		return v.Msg
	}
	return v.Path + ": " + v.Msg
}

// Violations are all broken constraints of a message, as an error.
type Violations []Violation

func (v Violations) Error() string {
	texts := make([]string, len(v))
	for i, one := range v {
		texts[i] = one.String()
	}
	return strings.Join(texts, "; ")
}

// Validate returns nil, or all violations as one error of type Violations.
func Validate(m proto.Message) error {
	if v := Check(m); len(v) > 0 {
		return Violations(v)
	}
	return nil
}

// Check finds the violations in m and all messages inside it, in the order of the fields. A field is checked when its
// message is there, even at its zero value; an optional field or a member of a oneof only when it is set.
func Check(m proto.Message) []Violation {
	c := &checker{}
	c.message(m.ProtoReflect(), "")
	return c.found
}

type checker struct{ found []Violation }

func (c *checker) add(path, format string, args ...any) {
	c.found = append(c.found, Violation{Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (c *checker) message(m protoreflect.Message, path string) {
	p := planOf(m.Descriptor())
	for _, o := range p.oneofs {
		if m.WhichOneof(o.desc) == nil {
			c.add(path, "exactly one of %s must be set", o.members)
		}
	}
	for _, f := range p.fields {
		at := string(f.desc.Name())
		if path != "" {
			at = path + "." + at
		}
		c.field(m, f, at)
	}
}

func (c *checker) field(m protoreflect.Message, f field, path string) {
	fd := f.desc
	if !m.Has(fd) && (fd.HasPresence() || f.rule == nil) {
		if f.rule.GetRequired() {
			c.add(path, "must be present")
		}
		return
	}
	v := m.Get(fd)
	switch {
	case fd.IsMap():
		c.values(v.Map(), f, path)
	case fd.IsList():
		c.list(v.List(), f, path)
	case fd.Message() != nil:
		if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
			c.sign(f.rule, compareZero(d), path)
		} else if f.nested {
			c.message(v.Message(), path)
		}
	default:
		c.scalar(v, f, path)
	}
}

func (c *checker) values(m protoreflect.Map, f field, path string) {
	if !f.nested {
		return
	}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		c.message(v.Message(), path+"["+strconv.Quote(k.String())+"]")
		return true
	})
}

func (c *checker) list(l protoreflect.List, f field, path string) {
	if n := int(f.rule.GetMinItems()); l.Len() < n {
		c.add(path, "must have at least %s", count(n, "item"))
	}
	for i := range l.Len() {
		at := path + "[" + strconv.Itoa(i) + "]"
		switch {
		case f.nested:
			c.message(l.Get(i).Message(), at)
		case f.desc.Kind() == protoreflect.StringKind:
			c.length(l.Get(i).String(), int(f.rule.GetItemMinBytes()), at)
		}
	}
}

func (c *checker) scalar(v protoreflect.Value, f field, path string) {
	if f.rule == nil {
		return
	}
	switch f.desc.Kind() {
	case protoreflect.StringKind:
		c.text(v.String(), f, path)
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		c.sign(f.rule, int(min(max(v.Int(), -1), 1)), path)
		if f.rule.Gte != nil && v.Int() < f.rule.GetGte() {
			c.add(path, "must be at least %d", f.rule.GetGte())
		}
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		c.sign(f.rule, int(min(v.Uint(), 1)), path)
		if f.rule.Gte != nil && f.rule.GetGte() > 0 && v.Uint() < uint64(f.rule.GetGte()) {
			c.add(path, "must be at least %d", f.rule.GetGte())
		}
	case protoreflect.DoubleKind:
		sign := 0
		if v.Float() > 0 {
			sign = 1
		} else if v.Float() < 0 {
			sign = -1
		}
		c.sign(f.rule, sign, path)
	}
}

func (c *checker) text(s string, f field, path string) {
	if !c.length(s, int(f.rule.GetMinBytes()), path) {
		return
	}
	if in := f.rule.GetIn(); len(in) > 0 && !slices.Contains(in, s) {
		c.add(path, "must be one of %s", choices(in))
	}
	if s == "" {
		return
	}
	if f.rule.GetAbsoluteUri() && !absolute(s) {
		c.add(path, "must be an absolute URI such as https://example.com")
	}
	if f.pattern != nil && !f.pattern.MatchString(s) {
		c.add(path, "must match %s", f.rule.GetPattern())
	}
}

func (c *checker) length(s string, n int, path string) bool {
	if len(s) >= n {
		return true
	}
	if s == "" {
		c.add(path, "must not be empty")
	} else {
		c.add(path, "must have at least %s", count(n, "byte"))
	}
	return false
}

// sign checks a number or duration of which only the sign (-1, 0, 1) matters.
func (c *checker) sign(r *rules.Field, sign int, path string) {
	switch {
	case r.GetPositive() && sign <= 0:
		c.add(path, "must be greater than zero")
	case r.GetNotNegative() && sign < 0:
		c.add(path, "must not be negative")
	}
}

func compareZero(d *durationpb.Duration) int {
	switch {
	case d.GetSeconds() < 0 || d.GetNanos() < 0:
		return -1
	case d.GetSeconds() > 0 || d.GetNanos() > 0:
		return 1
	default:
		return 0
	}
}

func absolute(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Opaque == "" && (u.Host != "" || u.Path != "")
}

func choices(in []string) string {
	var shown []string
	for _, s := range in {
		if s != "" {
			shown = append(shown, strconv.Quote(s))
		}
	}
	return strings.Join(shown, ", ")
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}
