package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"
	"gopkg.in/yaml.v3"
)

const (
	// folderFile is the file meant when --config names a folder, as a mounted ConfigMap or Secret is one.
	folderFile = "config.yaml"
	// maxConfigFile bounds the file, in bytes.
	maxConfigFile = 1 << 20
)

// fileConfig is what --config may hold, in the form that Deployments written by hand have.
type fileConfig struct {
	token, kasAddress string
	// noted are sections that belong into the agent's project. They grant nothing here.
	noted []string
}

// notedSections are known and have no effect.
var notedSections = []string{"ci_access", "user_access"}

// readConfigFile reads the file, or config.yaml of the folder. Errors name the path and the line, and quote no value.
func readConfigFile(path string) (fileConfig, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileConfig{}, err
	}
	if info.IsDir() {
		path = filepath.Join(path, folderFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return fileConfig{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return fileConfig{}, err
	}
	if len(content) > maxConfigFile {
		return fileConfig{}, fmt.Errorf("%s: more than %d bytes", path, maxConfigFile)
	}
	var root yaml.Node
	if err = yaml.Unmarshal(content, &root); err != nil {
		return fileConfig{}, fmt.Errorf("%s: %w", path, err)
	}
	var c fileConfig
	if len(root.Content) > 0 {
		if err = c.read(root.Content[0]); err != nil {
			return fileConfig{}, fmt.Errorf("%s: %w", path, err)
		}
	}
	return c, nil
}

// read takes over the whole document.
func (c *fileConfig) read(top *yaml.Node) error {
	return eachKey(top, "the file", func(key string, value *yaml.Node) error {
		switch {
		case key == "agent":
			return eachKey(value, "agent", c.agentKey)
		case key == "kas_address":
			return c.setAddress("kas_address", value)
		case slices.Contains(notedSections, key):
			c.noted = append(c.noted, key)
			return nil
		default:
			return fmt.Errorf("line %d: unknown key %q: known are agent, kas_address, %s", value.Line, key, strings.Join(notedSections, ", "))
		}
	})
}

func (c *fileConfig) agentKey(key string, value *yaml.Node) error {
	switch key {
	case "token":
		text, err := textOf("agent.token", value)
		switch variable, isVariable := strings.CutPrefix(text, "$"); {
		case err != nil:
			return err
		case isVariable && strings.Trim(variable, "{}()") == secretVariable:
			// The variable is looked at anyway.
		case isVariable:
			return fmt.Errorf("line %d: agent.token names a variable, and variables are not replaced", value.Line)
		default:
			c.token = text
		}
		return nil
	case "kas_address":
		return c.setAddress("agent.kas_address", value)
	default:
		return fmt.Errorf("line %d: unknown key %q: known are agent.token and agent.kas_address", value.Line, "agent."+key)
	}
}

func (c *fileConfig) setAddress(path string, value *yaml.Node) error {
	text, err := textOf(path, value)
	if err == nil && c.kasAddress != "" && c.kasAddress != text {
		err = fmt.Errorf("line %d: kas_address and agent.kas_address differ: give one of them", value.Line)
	}
	c.kasAddress = text
	return err
}

// eachKey calls do for every key of a mapping, none of which may come twice. Absent is as good as empty.
func eachKey(n *yaml.Node, what string, do func(key string, value *yaml.Node) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s must be a mapping", n.Line, what)
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if seen[key] {
			return fmt.Errorf("line %d: key %q comes twice", n.Content[i].Line, key)
		}
		seen[key] = true
		if err := do(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func textOf(path string, n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || strings.TrimSpace(n.Value) == "" {
		return "", fmt.Errorf("line %d: %s must be a text, in quotes if it looks like a number", n.Line, path)
	}
	return strings.TrimSpace(n.Value), nil
}

// useConfigFile fills in what flags leave open from the file of --config.
func (o *options) useConfigFile(log *zap.Logger) error {
	if o.configFile == "" {
		return nil
	}
	c, err := readConfigFile(o.configFile)
	if err != nil {
		return flagError("config", err)
	}
	if o.kasAddress == "" {
		o.kasAddress = c.kasAddress
	}
	if o.kasAddress == "" {
		return errors.New("--kas-address is required: the file of --config has no kas_address")
	}
	o.configToken = c.token
	if len(c.noted) > 0 {
		log.Info("Sections of the file of --config have no effect: who may use the agent is in its project, .gitlab/agents/<name>/config.yaml",
			zap.Strings("sections", c.noted))
	}
	return nil
}
