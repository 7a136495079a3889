// Package manifest makes the Kubernetes manifests of an agent for those who install without Helm. They are the kustomize base of this
// repository, filled in: one source for both ways.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"gitlab.com/agentk/agentk/internal/kasdial"
)

const (
	// secretName is the Secret with the token, as the Deployment of the base mounts it.
	secretName = "gitlab-agent-token"
	// longestName is the base's longest name that must be a DNS label.
	longestName = "gitlab-agent-impersonator"
)

// Config says what the manifests are for. All but NamePrefix and NoRBAC are required.
type Config struct {
	// Token is the agent token. It ends up in a Secret.
	Token string
	// KasAddress is a ws, wss, grpc or grpcs URL.
	KasAddress string
	// Version is the tag of the image.
	Version   string
	Namespace string
	// NamePrefix begins the name of every object but the namespace.
	NamePrefix string
	// NoRBAC leaves out all roles and bindings, and with them the impersonation account: somebody else gives agentk its rights.
	NoRBAC bool
}

// isTag says that a text can be the tag of an image. The expression takes 0.1 MB, which an agent that only runs does without.
func isTag(text string) bool {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`).MatchString(text)
}

func (c Config) check() error {
	if _, err := kasdial.ParseAddress(c.KasAddress); err != nil {
		return err
	}
	switch {
	case c.Token == "":
		return errors.New("the agent token is empty")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the agent token holds characters that no token has, such as spaces")
	case !isTag(c.Version):
		return fmt.Errorf("version %q cannot be the tag of an image", c.Version)
	}
	if problems := validation.IsDNS1123Label(c.Namespace); len(problems) > 0 {
		return fmt.Errorf("namespace %q: %s", c.Namespace, problems[0])
	}
	if problems := validation.IsDNS1123Label(c.NamePrefix + longestName); len(problems) > 0 {
		return fmt.Errorf("name prefix %q makes the name %q: %s", c.NamePrefix, c.NamePrefix+longestName, problems[0])
	}
	return nil
}

// Render returns the manifests as YAML that "kubectl apply -f -" takes. Errors name what is wrong with the configuration, and never
// quote the token.
func Render(cfg Config) ([]byte, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	objects, err := load(cfg.NoRBAC)
	if err != nil {
		return nil, err
	}
	secret, err := newSecret(cfg.Token)
	if err != nil {
		return nil, err
	}
	deployment := len(objects) - 1
	objects = append(objects[:deployment:deployment], secret, objects[deployment])
	if err = fill(objects[deployment+1], cfg); err != nil {
		return nil, err
	}
	newNames(cfg, objects).apply()
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	for _, o := range objects {
		if err = encoder.Encode(o.root); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), encoder.Close()
}

// newSecret holds the token.
func newSecret(token string) (object, error) {
	root := &yaml.Node{}
	err := root.Encode(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": secretName, "namespace": baseNamespace,
			"labels": map[string]string{"app.kubernetes.io/name": "gitlab-agent", "app.kubernetes.io/instance": "gitlab-agent"},
		},
		"stringData": map[string]string{"token": token},
	})
	return object{root: root}, err
}

// fill writes what differs into the Deployment.
func fill(o object, cfg Config) error {
	containers := o.find("spec", "template", "spec", "containers")
	if o.kind() != "Deployment" || containers == nil || len(containers.Content) != 1 {
		return errors.New("the base does not end with the Deployment")
	}
	container := object{root: containers.Content[0]}
	image := container.find("image")
	repository, _, _ := strings.Cut(image.Value, ":")
	image.Value = repository + ":" + cfg.Version
	for _, variable := range container.find("env").Content {
		v := object{root: variable}
		if v.find("name").Value == "KAS_ADDRESS" {
			v.find("value").SetString(cfg.KasAddress)
		}
	}
	if !cfg.NoRBAC {
		return nil
	}
	args := container.find("args")
	var kept []*yaml.Node
	for _, arg := range args.Content {
		if !strings.HasPrefix(arg.Value, "--impersonation-service-account=") {
			kept = append(kept, arg)
		}
	}
	args.Content = kept
	return nil
}
