package protoyaml

import "gopkg.in/yaml.v3"

// overlay lays one document over another: mappings are joined key by key, any other value replaces what was there, and null
// leaves it. Neither tree is changed where it may be shared through an alias. What comes from over has no line, since lines are
// those of the file.
func overlay(base, over *yaml.Node) *yaml.Node {
	forgetLines(over, 0)
	return layOver(base, over, 0)
}

func layOver(base, over *yaml.Node, depth int) *yaml.Node {
	base, top := target(base), target(over)
	switch {
	case top == nil || isNull(top):
		return base
	case base == nil || base.Kind != yaml.MappingNode || top.Kind != yaml.MappingNode || depth > maxDepth:
		return over
	}
	joined := *base
	joined.Content = append([]*yaml.Node(nil), base.Content...)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if at := indexOf(joined.Content, key); at >= 0 {
			joined.Content[at+1] = layOver(joined.Content[at+1], value, depth+1)
		} else {
			joined.Content = append(joined.Content, key, value)
		}
	}
	return &joined
}

// indexOf finds a plain key in a mapping's content, or says -1.
func indexOf(content []*yaml.Node, key *yaml.Node) int {
	if key.Kind != yaml.ScalarNode {
		return -1
	}
	for i := 0; i+1 < len(content); i += 2 {
		if content[i].Kind == yaml.ScalarNode && content[i].Value == key.Value {
			return i
		}
	}
	return -1
}

// target is the node that an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func forgetLines(n *yaml.Node, depth int) {
	if n == nil || depth > maxDepth {
		return
	}
	n.Line = 0
	for _, inner := range n.Content {
		forgetLines(inner, depth+1)
	}
}
