package gitlab

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"
)

const ciFile = ".gitlab-ci.yml"

// plan is what a .gitlab-ci.yml asks for.
type plan struct {
	stages    []string
	variables map[string]string
	before    lines
	jobs      []plannedJob // in the order of stages, then of the file
}

type plannedJob struct {
	name         string
	Stage        string             `yaml:"stage"`
	Script       lines              `yaml:"script"`
	BeforeScript lines              `yaml:"before_script"`
	AfterScript  lines              `yaml:"after_script"`
	Variables    map[string]string  `yaml:"variables"`
	Environment  plannedEnvironment `yaml:"environment"`
	AllowFailure bool               `yaml:"allow_failure"`
	// A shell runner has no use for these.
	Image yaml.Node `yaml:"image"`
	Tags  []string  `yaml:"tags"`
}

// lines are shell commands, written as one text or as a list.
type lines []string

func (l *lines) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*l = lines{node.Value}
		return nil
	}
	var many []string
	err := node.Decode(&many)
	*l = many
	return err
}

// plannedEnvironment is written as a name or as an object.
type plannedEnvironment struct {
	Name string `yaml:"name"`
	URL  string `yaml:"url"`
	Tier string `yaml:"deployment_tier"`
	// Action start is the only one that this runner knows; the dashboard's keys change nothing for a job.
	Action     string    `yaml:"action"`
	Kubernetes yaml.Node `yaml:"kubernetes"`
}

func (e *plannedEnvironment) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		e.Name = node.Value
		return nil
	}
	type plain plannedEnvironment
	return node.Decode((*plain)(e))
}

// ignoredKeys are those at the top of the file that change nothing here.
var ignoredKeys = []string{"image", "default", "workflow"}

// readPlan reads a .gitlab-ci.yml. What the runner does not know is an error: a job that runs otherwise than written proves nothing.
func readPlan(content []byte) (*plan, error) {
	var file yaml.Node
	if err := yaml.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", ciFile, err)
	}
	if len(file.Content) != 1 || file.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: not a mapping", ciFile)
	}
	p := &plan{stages: []string{"build", "test", "deploy"}}
	pairs := file.Content[0].Content
	for i := 0; i < len(pairs); i += 2 {
		if err := p.key(pairs[i].Value, pairs[i+1]); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", ciFile, pairs[i].Value, err)
		}
	}
	for _, j := range p.jobs {
		if !slices.Contains(p.stages, j.Stage) {
			return nil, fmt.Errorf("%s: %s: stage %q is not in stages", ciFile, j.name, j.Stage)
		}
	}
	slices.SortStableFunc(p.jobs, func(a, b plannedJob) int { return slices.Index(p.stages, a.Stage) - slices.Index(p.stages, b.Stage) })
	if len(p.jobs) == 0 {
		return nil, fmt.Errorf("%s: no jobs", ciFile)
	}
	return p, nil
}

func (p *plan) key(name string, value *yaml.Node) error {
	switch {
	case slices.Contains(ignoredKeys, name) || name[0] == '.':
		return nil
	case name == "stages":
		return value.Decode(&p.stages)
	case name == "variables":
		return value.Decode(&p.variables)
	case name == "before_script":
		return value.Decode(&p.before)
	case value.Kind != yaml.MappingNode:
		return errors.New("this runner does not know it")
	}
	content, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	j := plannedJob{name: name, Stage: "test"}
	if err := strictly(content, &j); err != nil {
		return err
	}
	if len(j.Script) == 0 {
		return errors.New("script is missing")
	}
	if a := j.Environment.Action; a != "" && a != "start" {
		return fmt.Errorf("environment: this runner does not know action %q", a)
	}
	p.jobs = append(p.jobs, j)
	return nil
}

// strictly decodes YAML and refuses unknown keys.
func strictly(content []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	return decoder.Decode(into)
}
