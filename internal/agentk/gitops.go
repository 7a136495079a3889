package agentk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/api/gitops"
	configagent "gitlab.com/agentk/agentk/internal/agentconfig/agent"
	gitopsagent "gitlab.com/agentk/agentk/internal/gitops/agent"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/leader"
	"gitlab.com/agentk/agentk/internal/ownpod"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

const (
	// DefaultGitOpsMemory is how much memory the GitOps engine may take, in bytes, unless the container has less.
	DefaultGitOpsMemory = 512 << 20
	// ownMemory is what the engine leaves to agentk of its container's memory.
	ownMemory = 96 << 20
	// engineName is the executable of the engine.
	engineName = "agentk-gitops"
)

// GitOps configures what makes the cluster follow repositories.
type GitOps struct {
	// Engine is the executable of the engine; empty: agentk-gitops beside agentk.
	Engine string
	// Memory is how much the engine may take, in bytes. 0: DefaultGitOpsMemory.
	Memory int64
	// ValuesURLs are prefixes of the URLs that values of charts may be read from.
	ValuesURLs []string
}

// EngineExecutable is where the engine is: beside this program.
func EngineExecutable() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the GitOps engine: %w", err)
	}
	return filepath.Join(filepath.Dir(self), engineName), nil
}

func (a *agent) newGitOps(context.Context) error {
	log := a.log.With(zap.String(telemetry.ModName, "gitops"))
	cfg := gitopsagent.Config{
		Client:     gitops.NewGitopsClient(a.kas),
		Elect:      a.elect,
		Engine:     a.cfg.GitOps.Engine,
		Memory:     a.cfg.GitOps.Memory,
		Access:     func() (child.Access, error) { return child.NewAccess(a.cfg.REST, os.Getenv) },
		PodName:    a.cfg.Pod.Name,
		ValuesURLs: a.cfg.GitOps.ValuesURLs,
		Log:        log,
		Registerer: a.registry,
	}
	if cfg.Memory == 0 {
		cfg.Memory = child.Fit(DefaultGitOpsMemory, ownMemory)
	}
	if a.events != nil {
		cfg.Notify = func(ctx context.Context, reason, message string) {
			a.events.Emit(ctx, configagent.Event{Warning: true, Reason: reason, Message: message})
		}
	}
	var err error
	if cfg.Engine == "" {
		if cfg.Engine, err = EngineExecutable(); err != nil {
			return err
		}
	}
	a.gitops, err = gitopsagent.New(cfg)
	return err
}

// elect is the election among the pods of this agent.
func (a *agent) elect(agentID int64) (gitopsagent.Elector, error) {
	pod := a.cfg.Pod
	return leader.New(leader.Config{
		Client: a.api, Namespace: pod.Namespace, Name: fmt.Sprintf("agent-%d-lock", agentID), Identity: pod.Name,
		Owner: func(ctx context.Context) *metav1.OwnerReference {
			return ownpod.Owner(ctx, a.api, pod.Namespace, pod.Name)
		},
		Log: a.log.With(zap.String(telemetry.ModName, "leader_election")), Registerer: a.registry,
	})
}
