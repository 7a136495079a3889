package charts

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// row is one line of the table of values: | `key` | `default` | effect |
var row = regexp.MustCompile("^\\| `([^`]+)` \\| `([^`]*)` \\| (.+) \\|$")

// Documented checks that the chart's README has a row for every value (or for the object that holds it) with its true default, in
// JSON, texts without quotes; that it has no row for a value that does not exist; and that the schema knows the same values. extra
// names values that have no default: they are in the schema and the README, with the default "null".
func (c *Chart) Documented(t *testing.T, extra ...string) {
	t.Helper()
	var values, schema map[string]any
	c.read(t, "values.yaml", &values)
	c.read(t, "values.schema.json", &schema)
	for _, key := range extra {
		values[key] = nil
	}
	documented := c.rows(t)

	for key, shown := range documented {
		value, found := lookUp(values, key)
		if !found {
			t.Errorf("README.md has the value %s, values.yaml has not", key)
		} else if want := inJSON(t, value); shown != want {
			t.Errorf("README.md says that the default of %s is %s, values.yaml says %s", key, shown, want)
		}
	}
	for _, key := range leaves("", values) {
		if !coveredBy(documented, key) {
			t.Errorf("README.md has no row for %s", key)
		}
		if !inSchema(schema, schema, strings.Split(key, ".")) {
			t.Errorf("values.schema.json does not know %s", key)
		}
	}
	for _, key := range schemaLeaves("", schema, schema) {
		if _, found := lookUp(values, key); !found && !coveredBy(documented, key) {
			t.Errorf("values.schema.json has the value %s, README.md has not", key)
		}
	}
}

func (c *Chart) read(t *testing.T, name string, into *map[string]any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// rows returns key and default of each row.
func (c *Chart) rows(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			found[m[1]] = m[2]
		}
	}
	if len(found) == 0 {
		t.Fatal("README.md has no table of values")
	}
	return found
}

// lookUp finds a value by its path. Keys that hold a dot are found as a whole.
func lookUp(values map[string]any, path string) (any, bool) {
	if value, found := values[path]; found {
		return value, true
	}
	for i := range path {
		if path[i] != '.' {
			continue
		}
		if inner, ok := values[path[:i]].(map[string]any); ok {
			if value, found := lookUp(inner, path[i+1:]); found {
				return value, true
			}
		}
	}
	return nil, false
}

// leaves returns the paths of all values that hold no others.
func leaves(prefix string, values map[string]any) []string {
	var paths []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		inner, ok := values[key].(map[string]any)
		if ok && len(inner) > 0 {
			paths = append(paths, leaves(prefix+key+".", inner)...)
		} else {
			paths = append(paths, prefix+key)
		}
	}
	return paths
}

// coveredBy tells whether there is a row for the path or for an object that holds it.
func coveredBy(documented map[string]string, path string) bool {
	for path != "" {
		if _, found := documented[path]; found {
			return true
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
	return false
}

// inSchema tells whether the schema names the path, or allows anything at a part of it.
func inSchema(root, schema map[string]any, path []string) bool {
	schema = resolve(root, schema)
	if len(path) == 0 {
		return true
	}
	properties, _ := schema["properties"].(map[string]any)
	if inner, ok := properties[path[0]].(map[string]any); ok {
		return inSchema(root, inner, path[1:])
	}
	return schema["additionalProperties"] != false
}

// schemaLeaves returns the paths of all values that the schema names.
func schemaLeaves(prefix string, root, schema map[string]any) []string {
	schema = resolve(root, schema)
	properties, _ := schema["properties"].(map[string]any)
	if len(properties) == 0 {
		return []string{strings.TrimSuffix(prefix, ".")}
	}
	var paths []string
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		if inner, ok := properties[key].(map[string]any); ok {
			paths = append(paths, schemaLeaves(prefix+key+".", root, inner)...)
		}
	}
	return paths
}

func resolve(root, schema map[string]any) map[string]any {
	ref, _ := schema["$ref"].(string)
	if ref == "" {
		return schema
	}
	definitions, _ := root["definitions"].(map[string]any)
	target, _ := definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	return target
}

func inJSON(t *testing.T, value any) string {
	t.Helper()
	if text, ok := value.(string); ok && text != "" {
		return text
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
