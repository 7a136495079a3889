package protoyaml

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
)

// pair is one entry of a mapping after its merge keys were applied.
type pair struct {
	name   string
	key    *yaml.Node
	value  *yaml.Node
	merged bool
}

// pairs lists a mapping's own entries, then those that merge keys ("<<") bring and that it does not have itself. Keys that
// come twice are mistakes.
func (d *decoder) pairs(n *yaml.Node, path string, depth int) []pair {
	var own []pair
	var merges []*yaml.Node
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.afford(key, path) {
			return own
		}
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode || isNull(key):
			d.mistake(path, n.Content[i], "a key must be a plain name")
		case key.ShortTag() == "!!merge":
			merges = append(merges, value)
		case seen[key.Value] > 0:
			d.mistake(join(path, key.Value), n.Content[i], "duplicate key; it stands on line %d already", seen[key.Value])
		default:
			seen[key.Value] = n.Content[i].Line
			own = append(own, pair{name: key.Value, key: n.Content[i], value: value})
		}
	}
	for _, m := range merges {
		own = d.merge(own, seen, m, path, depth+1)
	}
	return own
}

// merge adds the entries of a merge key's value: a mapping, or a list of mappings of which earlier ones win.
func (d *decoder) merge(own []pair, seen map[string]int, n *yaml.Node, path string, depth int) []pair {
	n, leave, ok := d.enter(n, path, depth)
	defer leave()
	if !ok {
		return own
	}
	d.aliased++
	defer func() { d.aliased-- }()
	switch n.Kind {
	case yaml.MappingNode:
		for _, p := range d.pairs(n, path, depth) {
			if seen[p.name] == 0 {
				seen[p.name] = p.key.Line
				p.merged = true
				own = append(own, p)
			}
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			own = d.merge(own, seen, item, path, depth+1)
		}
	default:
		d.mistake(path, n, `the value of "<<" must be a mapping or a list of mappings`)
	}
	return own
}

func (d *decoder) unknown(path string, p pair, fields protoreflect.FieldDescriptors) {
	msg := "unknown key"
	if s := suggest(p.name, fields); s != "" {
		msg += `; did you mean "` + s + `"?`
	}
	if !d.opt.WarnUnknown || d.strict(path) {
		d.mistake(path, p.key, "%s", msg)
		return
	}
	if len(d.warnings) < maxWarnings {
		d.warnings = append(d.warnings, Mistake{Path: path, Line: p.key.Line, Msg: msg})
	}
}

func (d *decoder) strict(path string) bool {
	for _, s := range d.opt.Strict {
		rest, ok := strings.CutPrefix(path, s)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// maxSuggestLen is the longest key that is worth comparing with the known ones.
const maxSuggestLen = 64

// suggest finds the known key that was probably meant, or says "".
func suggest(name string, fields protoreflect.FieldDescriptors) string {
	if len(name) > maxSuggestLen {
		return ""
	}
	plain := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	best, bestDistance := "", max(1, len(name)/3)+1
	for i := range fields.Len() {
		known := string(fields.Get(i).Name())
		if plain(known) == plain(name) {
			return known
		}
		if dist := distance(name, known); dist < bestDistance {
			best, bestDistance = known, dist
		}
	}
	return best
}

// distance is the number of single-byte edits between two keys.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

func memberNames(od protoreflect.OneofDescriptor) string {
	names := make([]string, od.Fields().Len())
	for i := range names {
		names[i] = string(od.Fields().Get(i).Name())
	}
	return strings.Join(names, ", ")
}
