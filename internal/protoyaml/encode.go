package protoyaml

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"gopkg.in/yaml.v3"
)

// masked stands where a secret was.
const masked = "masked"

// Encode writes the set fields of a message as YAML, in the order of the .proto file, for people to read. Secrets are
// masked: the user part of URLs, and free values whose key says that they are one. Names of secret files are shown, and so
// are the one-way hashes of tokens.
func Encode(m proto.Message) ([]byte, error) {
	root, err := encodeMessage(m.ProtoReflect())
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err = enc.Encode(root); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err = enc.Close(); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return out.Bytes(), nil
}

func encodeMessage(m protoreflect.Message) (*yaml.Node, error) {
	switch known := m.Interface().(type) {
	case *structpb.Struct:
		return encodeFree("", structpb.NewStructValue(known)), nil
	case *structpb.Value:
		return encodeFree("", known), nil
	default:
		if _, ok := wellKnown[m.Descriptor().FullName()]; ok {
			return encodeText(known)
		}
	}
	out := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		v, err := encodeField(m.Get(fd), fd)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, str(string(fd.Name())), v)
	}
	return out, nil
}

// encodeText writes a duration or timestamp as its JSON string.
func encodeText(m proto.Message) (*yaml.Node, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return str(s), nil
}

func encodeField(v protoreflect.Value, fd protoreflect.FieldDescriptor) (*yaml.Node, error) {
	switch {
	case fd.IsMap():
		return encodeMap(v.Map(), fd)
	case fd.IsList():
		out := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			item, err := encodeValue(v.List().Get(i), fd)
			if err != nil {
				return nil, err
			}
			out.Content = append(out.Content, item)
		}
		return out, nil
	default:
		return encodeValue(v, fd)
	}
}

func encodeMap(m protoreflect.Map, fd protoreflect.FieldDescriptor) (*yaml.Node, error) {
	var keys []string
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k.String())
		return true
	})
	slices.Sort(keys)
	out := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		v, err := encodeValue(m.Get(protoreflect.ValueOfString(k).MapKey()), fd.MapValue())
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, str(k), v)
	}
	return out, nil
}

func encodeValue(v protoreflect.Value, fd protoreflect.FieldDescriptor) (*yaml.Node, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return encodeMessage(v.Message())
	case protoreflect.EnumKind:
		return str(string(fd.Enum().Values().ByNumber(v.Enum()).Name())), nil
	case protoreflect.StringKind:
		return str(mask(string(fd.Name()), v.String())), nil
	default:
		return plain(v.Interface())
	}
}

func encodeFree(key string, v *structpb.Value) *yaml.Node {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		out := &yaml.Node{Kind: yaml.MappingNode}
		names := make([]string, 0, len(k.StructValue.GetFields()))
		for name := range k.StructValue.GetFields() {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			out.Content = append(out.Content, str(name), encodeFree(name, k.StructValue.GetFields()[name]))
		}
		return out
	case *structpb.Value_ListValue:
		out := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range k.ListValue.GetValues() {
			out.Content = append(out.Content, encodeFree(key, item))
		}
		return out
	case *structpb.Value_StringValue:
		return str(mask(key, k.StringValue))
	case *structpb.Value_NumberValue:
		if secretKey(key) {
			return str(masked)
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatFloat(k.NumberValue, 'f', -1, 64)}
	case *structpb.Value_BoolValue:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatBool(k.BoolValue)}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: "null"}
	}
}

// oldBool are words that YAML 1.1 readers take for booleans.
var oldBool = regexp.MustCompile(`(?i)^(y|yes|on|n|no|off)$`)

func str(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if oldBool.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func plain(v any) (*yaml.Node, error) {
	n := &yaml.Node{}
	if err := n.Encode(v); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return n, nil
}

var secretWord = regexp.MustCompile(`(?i)passw|secret|token|credential|api_?key|private_?key`)

// secretKey says whether a key's value is a secret by its name. What names a file or is a hash is not.
func secretKey(key string) bool {
	return secretWord.MatchString(key) && !strings.HasSuffix(key, "_file") && !strings.HasSuffix(key, "_sha256")
}

func mask(key, value string) string {
	if value == "" {
		return value
	}
	if secretKey(key) {
		return masked
	}
	scheme := strings.Index(value, "://")
	at := strings.LastIndexByte(value, '@')
	if scheme < 0 || at < scheme {
		return value
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "":
		// Not a URL that can be taken apart: rather too little is shown than too much.
		return value[:scheme+len("://")] + masked + value[at:]
	case u.User != nil:
		u.User = url.User(masked)
		return u.String()
	default:
		return value
	}
}
