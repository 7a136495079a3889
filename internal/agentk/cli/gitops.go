package cli

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"gitlab.com/agentk/agentk/internal/agentk"
	gitopsagent "gitlab.com/agentk/agentk/internal/gitops/agent"
)

const (
	// memoryVariable is the environment variable for --gitops-memory-limit.
	memoryVariable = "AGENTK_GITOPS_MEMORY_LIMIT"
	// leastMemory is what the engine needs for nothing at all, in bytes.
	leastMemory = 64 << 20
)

// gitOps checks the flags of GitOps.
func (o *options) gitOps(p Process) (agentk.GitOps, error) {
	g := agentk.GitOps{Engine: o.engine, ValuesURLs: o.valuesURLs}
	for _, prefix := range o.valuesURLs {
		if err := gitopsagent.CheckValuesURL(prefix); err != nil {
			return g, flagError("gitops-values-url", err)
		}
	}
	memory, from := o.engineMemory, "--gitops-memory-limit"
	if memory == "" {
		memory, from = p.Getenv(memoryVariable), memoryVariable
	}
	if memory == "" {
		return g, nil
	}
	quantity, err := resource.ParseQuantity(memory)
	if err != nil {
		return g, fmt.Errorf("%s: %w", from, err)
	}
	if g.Memory = quantity.Value(); g.Memory < leastMemory {
		return g, fmt.Errorf("%s: must be at least 64Mi, got %s", from, memory)
	}
	return g, nil
}
