package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"

	"gitlab.com/agentk/agentk/deploy/kustomize"
)

const (
	// rbacGroup begins the apiVersion of roles and bindings.
	rbacGroup = "rbac.authorization.k8s.io/"
	// impersonationFile is the file of the base that is of no use without roles.
	impersonationFile = "impersonation.yaml"
)

// load reads the base in the order of its kustomization.yaml.
func load(noRBAC bool) ([]object, error) {
	content, err := kustomize.Files.ReadFile("kustomization.yaml")
	if err != nil {
		return nil, fmt.Errorf("kustomize base: %w", err)
	}
	var k struct {
		Resources []string `yaml:"resources"`
	}
	if err = yaml.Unmarshal(content, &k); err != nil {
		return nil, fmt.Errorf("kustomize base: %w", err)
	}
	var all []object
	for _, file := range k.Resources {
		if noRBAC && file == impersonationFile {
			continue
		}
		if content, err = kustomize.Files.ReadFile(file); err != nil {
			return nil, fmt.Errorf("kustomize base: %w", err)
		}
		objects, err := parse(content)
		if err != nil {
			return nil, fmt.Errorf("kustomize base: %s: %w", file, err)
		}
		for _, o := range objects {
			if !noRBAC || !strings.HasPrefix(o.find("apiVersion").Value, rbacGroup) {
				all = append(all, o)
			}
		}
	}
	return all, nil
}

func parse(content []byte) ([]object, error) {
	var all []object
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		root := &yaml.Node{}
		err := decoder.Decode(root)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, object{root: root})
	}
}

// object is one object, or a part of one, with its comments.
type object struct{ root *yaml.Node }

// find returns the value at a path of keys, nil if there is none.
func (o object) find(path ...string) *yaml.Node {
	n := o.root
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	for _, key := range path {
		var next *yaml.Node
		for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				next = n.Content[i+1]
			}
		}
		if next == nil {
			return nil
		}
		n = next
	}
	return n
}

func (o object) kind() string { return o.find("kind").Value }
