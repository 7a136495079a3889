package stock

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// record is what one version sends: text, header lists and messages by name.
type record map[string][]string

// load reads a file of testdata: sections of lines, with comments.
func load(t *testing.T, name string) record {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	r, section := record{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			r[section] = append(r[section], line)
		}
	}
	return r
}

func (r record) lines(t *testing.T, section string, replace ...string) []string {
	t.Helper()
	lines := r[section]
	if len(lines) == 0 {
		t.Fatalf("no section %s", section)
	}
	return strings.Split(strings.NewReplacer(replace...).Replace(strings.Join(lines, "\n")), "\n")
}

// fields is a header list, in the order of the wire.
func (r record) fields(t *testing.T, section string, replace ...string) []hpack.HeaderField {
	t.Helper()
	var fields []hpack.HeaderField
	for _, line := range r.lines(t, section, replace...) {
		name, value, _ := strings.Cut(line, " ")
		fields = append(fields, hpack.HeaderField{Name: name, Value: value})
	}
	return fields
}

// message is a serialized protobuf message.
func (r record) message(t *testing.T, section string) []byte {
	t.Helper()
	lines := r.lines(t, section)
	if lines[0] == "-" {
		return nil
	}
	b, err := hex.DecodeString(strings.Join(lines, ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func value(fields []hpack.HeaderField, name string) string {
	for _, f := range fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func has(fields []hpack.HeaderField, name string) bool {
	for _, f := range fields {
		if f.Name == name {
			return true
		}
	}
	return false
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }
