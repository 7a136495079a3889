// Package agentconfig knows the agent's configuration file, .gitlab/agents/<name>/config.yaml: where it is, what may be in it,
// and what of it reaches the agent. Its sub-package server pushes the file, its sub-package agent applies it. The file is the
// user's: whatever is wrong with it is told with path and line.
package agentconfig

import (
	"fmt"
	"regexp"
	"sync"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/protoyaml"
	"gitlab.com/agentk/agentk/internal/rules"
)

// agentName is an RFC 1123 label, so that a name is one path segment and nothing else. Compiled it is large.
var agentName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) })

// Path is where the configuration file of an agent is in its project. A name that cannot be an agent's is an error.
func Path(name string) (string, error) {
	if !agentName().MatchString(name) {
		return "", fmt.Errorf("%.80q is not an agent name: up to 63 lower case letters, digits and inner dashes", name)
	}
	return ".gitlab/agents/" + name + "/config.yaml", nil
}

// Parse reads a configuration file. No data, only comments, and null are the empty configuration. The error lists every mistake
// with the path of its key and its line, and holds nothing else.
func Parse(data []byte) (*agentcfg.ConfigurationFile, error) {
	file := &agentcfg.ConfigurationFile{}
	if len(data) == 0 { // what most agents have
		return file, nil
	}
	res, err := protoyaml.Decode(data, file, protoyaml.Options{})
	if err != nil {
		return nil, err
	}
	var mistakes protoyaml.Mistakes
	for _, v := range rules.Check(file) {
		mistakes = append(mistakes, res.Positions.At(v.Path, "%s", v.Msg))
	}
	mistakes = append(mistakes, uniqueProjects(file, res.Positions)...)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return file, nil
}

// uniqueProjects refuses a manifest project that is named twice: two engines would fight over one inventory.
func uniqueProjects(file *agentcfg.ConfigurationFile, positions protoyaml.Positions) protoyaml.Mistakes {
	var mistakes protoyaml.Mistakes
	known := map[string]int{}
	for i, p := range file.GetGitops().GetManifestProjects() {
		first, ok := known[p.GetId()]
		if !ok {
			known[p.GetId()] = i
			continue
		}
		path := fmt.Sprintf("gitops.manifest_projects[%d].id", i)
		mistakes = append(mistakes, positions.At(path, "the project is already that of gitops.manifest_projects[%d]", first))
	}
	return mistakes
}
