package agentk

import (
	"net/http"
	"time"

	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/listen"
)

// Config is what an agent is started with.
type Config struct {
	Kas Kas
	// REST is the way to the cluster's API server.
	REST *rest.Config
	// ImpersonationServiceAccount and ImpersonationTokenFile are those of k8sapi.Config.
	ImpersonationServiceAccount, ImpersonationTokenFile string
	Pod                                                 Pod
	// Observability is the listener for metrics, probes and profiles.
	Observability listen.Config
	// MaxStreams bounds the tunnel streams, and so the requests served at once.
	MaxStreams int
	GitOps     GitOps
	// GracePeriod is how long requests in flight may go on after the agent was told to stop.
	GracePeriod time.Duration
}

// Kas says how to reach kas.
type Kas struct {
	// Address is a ws, wss, grpc or grpcs URL.
	Address string
	// Token returns the agent token. It is asked for every RPC.
	Token func() string
	// CAFile holds certificates trusted besides those of the system; empty: none.
	CAFile string
	// Header is sent with the WebSocket handshake, or as metadata of every RPC.
	Header             http.Header
	InsecureSkipVerify bool
	// ServerName replaces the host of Address in the verification of the certificate.
	ServerName string
}

// Pod is where this agent runs.
type Pod struct {
	Namespace, Name string
	// Known: both come from the environment and not from a guess, so that Events may name the pod.
	Known bool
	// Telemetry is passed on at registration.
	Telemetry map[string]string
}
