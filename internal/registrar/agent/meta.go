package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/entity"
)

const (
	// telemetryPrefix marks environment variables that the installation wants to reach GitLab.
	telemetryPrefix = "GITLAB_AGENT_TELEMETRY_"
	// maxTelemetry and maxText are what kas accepts.
	maxTelemetry = 32
	maxText      = 256
	// versionTimeout bounds the question for the cluster's version.
	versionTimeout = 5 * time.Second
)

// Telemetry picks the variables with the prefix GITLAB_AGENT_TELEMETRY_ out of an environment of the form of os.Environ. Keys are
// in lower case and without the prefix.
func Telemetry(environ []string) map[string]string {
	data := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		key, ok := strings.CutPrefix(name, telemetryPrefix)
		if !ok || key == "" || len(key) > maxText || len(value) > maxText || len(data) >= maxTelemetry {
			continue
		}
		data[strings.ToValidUTF8(strings.ToLower(key), "")] = strings.ToValidUTF8(value, "")
	}
	if len(data) == 0 {
		return nil
	}
	return data
}

// Pod describes this pod to kas. It is safe for concurrent use.
type Pod struct {
	fixed *entity.AgentMeta
	kube  func(ctx context.Context) (*entity.KubernetesVersion, error)
	log   *zap.Logger

	mu   sync.Mutex
	last *entity.KubernetesVersion // guarded by mu
}

// NewPod returns a Pod. Fixed holds what does not change; kube asks the cluster for its version, see KubernetesVersion.
func NewPod(fixed *entity.AgentMeta, kube func(ctx context.Context) (*entity.KubernetesVersion, error), log *zap.Logger) *Pod {
	return &Pod{fixed: fixed, kube: kube, log: log}
}

// Meta asks the cluster for its version, which changes while agents run. Without an answer the last known one is told.
func (p *Pod) Meta(ctx context.Context) *entity.AgentMeta {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	version, err := p.kube(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.log.Warn("The version of the cluster is not known", zap.Error(err))
		version = p.last
	}
	p.last = version
	meta := proto.CloneOf(p.fixed)
	meta.KubernetesVersion = version
	return meta
}

// KubernetesVersion returns a function that asks the API server behind client, for example that of a discovery client.
func KubernetesVersion(client rest.Interface) func(ctx context.Context) (*entity.KubernetesVersion, error) {
	return func(ctx context.Context) (*entity.KubernetesVersion, error) {
		body, err := client.Get().AbsPath("/version").Do(ctx).Raw()
		if err != nil {
			return nil, fmt.Errorf("ask the Kubernetes API server for its version: %w", err)
		}
		var info apiversion.Info
		if err := json.Unmarshal(body, &info); err != nil {
			return nil, fmt.Errorf("read the version of the Kubernetes API server: %w", err)
		}
		return &entity.KubernetesVersion{
			Major:      info.Major,
			Minor:      info.Minor,
			GitVersion: info.GitVersion,
			Platform:   info.Platform,
		}, nil
	}
}
