package cli

import (
	"os"
	"strings"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/agentk"
)

// findPod finds out where the agent runs. Without POD_NAMESPACE and POD_NAME it guesses: a namespace and a name to be told apart by
// are enough for the tunnel.
func findPod(p Process, log *zap.Logger) agentk.Pod {
	pod := agentk.Pod{Namespace: p.Getenv("POD_NAMESPACE"), Name: p.Getenv("POD_NAME")}
	if pod.Namespace != "" && pod.Name != "" {
		pod.Known = true
		return pod
	}
	if pod.Namespace == "" {
		pod.Namespace = "default"
		if b, err := os.ReadFile(p.NamespaceFile); err == nil {
			pod.Namespace = strings.TrimSpace(string(b))
		}
	}
	if pod.Name == "" {
		pod.Name = "agentk"
		if host, err := p.Hostname(); err == nil {
			pod.Name = host
		}
	}
	log.Warn("POD_NAMESPACE or POD_NAME is not set, guessing",
		zap.String("pod_namespace", pod.Namespace), zap.String("pod_name", pod.Name))
	return pod
}
