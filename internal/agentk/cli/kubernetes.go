package cli

import (
	"maps"
	"slices"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubernetesFlags are the flags of kubectl that say which cluster, and as whom. Without any of them, and without a kubeconfig file,
// the agent uses the service account of its pod.
type kubernetesFlags struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
}

func (k *kubernetesFlags) bind(f *pflag.FlagSet) {
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "kubeconfig file for the cluster of this agent")
	f.String("cache-dir", "", "")
	_ = f.MarkHidden("cache-dir") // kubectl's; there is nothing to cache
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.ShortName = "n"
	clientcmd.BindOverrideFlags(&k.overrides, f, names)
}

// load finds the way to the API server.
func (k *kubernetesFlags) load() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &k.overrides).ClientConfig()
	if err != nil {
		return nil, err
	}
	// Inside a pod client-go forgets --as: the agent would have its own power instead of less.
	as := k.overrides.AuthInfo
	if as.Impersonate+as.ImpersonateUID != "" || len(as.ImpersonateGroups)+len(as.ImpersonateUserExtra) > 0 {
		cfg.Impersonate = rest.ImpersonationConfig{
			UserName: as.Impersonate, UID: as.ImpersonateUID,
			Groups: slices.Clone(as.ImpersonateGroups), Extra: maps.Clone(as.ImpersonateUserExtra),
		}
	}
	return cfg, nil
}
