// Package job has the doctor's checks of a CI job (or a user's workstation): its kubeconfig, the way to the Kubernetes API proxy of kas,
// and what the job may do behind it.
package job

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
)

// maxContexts bounds the contexts that are tried when none is chosen.
const maxContexts = 5

// Config is what a job has.
type Config struct {
	// Kubeconfig is the value of $KUBECONFIG, or a path that was given instead.
	Kubeconfig string
	// Context is chosen by name; empty: the kubeconfig's own.
	Context string
	// Namespace is looked at; empty: that of the context, or default.
	Namespace string
	// JobToken is $CI_JOB_TOKEN; empty outside of jobs.
	JobToken string
	// Wanted are actions that the job must be able to do. Empty: anything will do.
	Wanted []kubeapi.Attributes
}

// Doctor makes the checks of one job.
type Doctor struct {
	cfg     Config
	file    *clientcmdapi.Config
	loadErr doctor.Outcome
	ways    []*way
}

// way is a context, and what was found on it.
type way struct {
	doctor *Doctor
	name   string
	rest   *rest.Config
	err    error
	target reach.Target
	client *kubeapi.Client
	// credential is what the context sends; groups and rules are what the cluster said of the job.
	credential credential
	namespace  string
	groups     []string
	rules      []kubeapi.Rule
}

// New reads the kubeconfig. Close must be called.
func New(cfg Config) *Doctor {
	d := &Doctor{cfg: cfg}
	d.load()
	return d
}

// Close ends connections.
func (d *Doctor) Close() {
	for _, w := range d.ways {
		if w.client != nil {
			w.client.Close()
		}
	}
}

// Secrets are the credentials of the kubeconfig, which a report must not show.
func (d *Doctor) Secrets() []string {
	secrets := []string{d.cfg.JobToken}
	if d.file == nil {
		return secrets
	}
	for _, user := range d.file.AuthInfos {
		secrets = append(secrets, user.Token, user.Password)
		if c, err := parseCredential(user.Token); err == nil {
			secrets = append(secrets, c.secret)
		}
	}
	return secrets
}

// Target is the file that is looked at.
func (d *Doctor) Target() string {
	if strings.ContainsAny(d.cfg.Kubeconfig, "\n{") {
		return "$KUBECONFIG"
	}
	return d.cfg.Kubeconfig
}

// load reads the kubeconfig and chooses the contexts to look at.
func (d *Doctor) load() {
	path := d.cfg.Kubeconfig
	switch {
	case path == "":
		d.loadErr = doctor.Bad("no-kubeconfig", "the variable KUBECONFIG is not set")
		return
	case strings.ContainsAny(path, "\n{"):
		d.loadErr = doctor.Bad("kubeconfig-overridden", "the variable KUBECONFIG holds a kubeconfig and not the path of one")
		return
	}
	content, err := os.ReadFile(path)
	if err != nil {
		d.loadErr = doctor.Bad("kubeconfig-overridden", "%v", err)
		return
	}
	file, err := clientcmd.Load(content)
	if err != nil {
		// The error may quote the file, which holds a token.
		d.loadErr = doctor.Bad("kubeconfig-overridden", "%s is not a kubeconfig", path)
		return
	}
	d.file = file
	if len(file.Contexts) == 0 {
		d.loadErr = doctor.Bad("no-kubeconfig", "%s has no context: no agent lets this job in", path)
		return
	}
	for _, name := range d.chosen() {
		d.ways = append(d.ways, d.way(name))
	}
}

// names are the contexts that there are.
func (d *Doctor) names() []string {
	var names []string
	for name := range d.file.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// chosen are the contexts to look at; none, if the one that was chosen is not there.
func (d *Doctor) chosen() []string {
	name := d.cfg.Context
	if name == "" {
		name = d.file.CurrentContext
	}
	if name != "" {
		if d.file.Contexts[name] == nil {
			return nil
		}
		return []string{name}
	}
	names := d.names()
	return names[:min(len(names), maxContexts)]
}

func (d *Doctor) way(name string) *way {
	w := &way{doctor: d, name: name, namespace: d.cfg.Namespace}
	context := d.file.Contexts[name]
	if w.namespace == "" {
		w.namespace = context.Namespace
	}
	if w.namespace == "" {
		w.namespace = "default"
	}
	w.rest, w.err = clientcmd.NewNonInteractiveClientConfig(*d.file, name, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if w.err != nil {
		return w
	}
	u, err := url.Parse(w.rest.Host)
	if err != nil || u.Host == "" {
		w.err = fmt.Errorf("context %s: the server is not a URL", name)
		return w
	}
	trust, err := rest.TLSConfigFor(w.rest)
	if err != nil {
		w.err = err
		return w
	}
	w.target = reach.Target{
		Name: "Kubernetes API proxy of kas", URL: u, TLS: trust,
		FixAuthority: "Set the variable SSL_CERT_FILE of the job to a file with the authority's certificate (a CI/CD variable of type file), or pass --certificate-authority to kubectl.",
	}
	return w
}

// Checks are all that can be made with the kubeconfig, in order.
func (d *Doctor) Checks() []doctor.Check {
	checks := []doctor.Check{
		{ID: "kubeconfig", Name: "kubeconfig", Run: d.kubeconfig},
		{ID: "context", Name: "context", Needs: []string{"kubeconfig"}, Run: d.context},
	}
	for i, w := range d.ways {
		if i == 0 {
			checks = append(checks, w.hops()...)
		}
		checks = append(checks, w.checks()...)
	}
	return checks
}

// kubeconfig says what the file is.
func (d *Doctor) kubeconfig(context.Context) doctor.Outcome {
	if d.loadErr.Status != "" {
		return d.loadErr
	}
	return doctor.Good("%s, contexts: %s", d.cfg.Kubeconfig, list(d.names()))
}

// context says which context is used.
func (d *Doctor) context(context.Context) doctor.Outcome {
	name := d.cfg.Context
	if name == "" {
		name = d.file.CurrentContext
	}
	switch {
	case name == "" && len(d.names()) == 1:
		return doctor.Doubt("no-context", "none is chosen; there is %s", d.names()[0]).
			WithFix("Choose it: `kubectl config use-context %s`; Auto DevOps: the variable KUBE_CONTEXT.", d.names()[0])
	case name == "":
		return doctor.Doubt("no-context", "none is chosen of: %s", list(d.names()))
	case len(d.ways) == 0:
		return doctor.Bad("wrong-context", "there is no %q; available: %s", name, list(d.names()))
	case d.ways[0].err != nil:
		return doctor.Bad("kubeconfig-overridden", "%v", d.ways[0].err)
	}
	return doctor.Good("%s, namespace %s", name, d.ways[0].namespace)
}

// list joins names, but not too many of them.
func list(names []string) string {
	const shown = 10
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}
