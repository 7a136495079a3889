// Package kubeevent puts events where the user of an agent looks first: on the agent's Deployment, so that "kubectl describe" shows
// why a configuration is not in use. Everything here is best effort: an agent without the rights, or outside a cluster, works as
// well without.
package kubeevent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/agentconfig/agent"
	"gitlab.com/agentk/agentk/internal/kuberest"
	"gitlab.com/agentk/agentk/internal/ownpod"
)

const (
	component = "agentk"
	// repeatAfter is when the same event is published again: API servers forget events after an hour.
	repeatAfter = 45 * time.Minute
	// maxMessage is the longest message that API servers take, in bytes.
	maxMessage = 1024
)

// Config configures an Emitter.
type Config struct {
	// Client is one of package kuberest.
	Client rest.Interface
	// Namespace and Pod name the pod this process runs in. If either is empty, nothing is published.
	Namespace, Pod string
	Log            *zap.Logger
}

// Emitter publishes events on the Deployment of the pod, or on the pod if no Deployment is found.
type Emitter struct {
	cfg Config

	// mu guards all below and is held while publishing: one event at a time.
	mu     sync.Mutex
	object *ownpod.Object // nil until found
	last   agent.Event
	lastAt time.Time
}

var _ agent.Events = (*Emitter)(nil)

// event is an Event of the group core, as far as it is filled in here.
type event struct {
	Kind                string        `json:"kind"`
	APIVersion          string        `json:"apiVersion"`
	Metadata            metadata      `json:"metadata"`
	InvolvedObject      ownpod.Object `json:"involvedObject"`
	Reason              string        `json:"reason"`
	Message             string        `json:"message"`
	Type                string        `json:"type"`
	Source              source        `json:"source"`
	ReportingController string        `json:"reportingComponent"`
	ReportingInstance   string        `json:"reportingInstance"`
	FirstTimestamp      metav1.Time   `json:"firstTimestamp"`
	LastTimestamp       metav1.Time   `json:"lastTimestamp"`
	Count               int           `json:"count"`
}

type metadata struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

type source struct {
	Component string `json:"component"`
}

// New returns an Emitter.
func New(cfg Config) (*Emitter, error) {
	if cfg.Client == nil || cfg.Log == nil {
		return nil, errors.New("kubernetes events: client and log are required")
	}
	return &Emitter{cfg: cfg}, nil
}

// Emit publishes an event unless it is the one published last.
func (e *Emitter) Emit(ctx context.Context, ev agent.Event) {
	if e.cfg.Namespace == "" || e.cfg.Pod == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev == e.last && time.Since(e.lastAt) < repeatAfter {
		return
	}
	if err := e.publish(ctx, ev); err != nil {
		e.cfg.Log.Debug("Kubernetes Event was not published", zap.String("reason", ev.Reason), zap.Error(err))
		return
	}
	e.last, e.lastAt = ev, time.Now()
}

func (e *Emitter) publish(ctx context.Context, ev agent.Event) error {
	object := e.object
	if object == nil {
		var err error
		if object, err = ownpod.Find(ctx, e.cfg.Client, e.cfg.Namespace, e.cfg.Pod); err == nil {
			e.object = object
		} else {
			e.cfg.Log.Debug("The agent's Deployment was not found", zap.Error(err))
		}
	}
	now := metav1.Now()
	published := &event{
		Kind:                "Event",
		APIVersion:          "v1",
		Metadata:            metadata{Namespace: e.cfg.Namespace, Name: eventName(object, ev)},
		InvolvedObject:      *object,
		Reason:              ev.Reason,
		Message:             shorten(ev.Message),
		Type:                "Normal",
		Source:              source{Component: component},
		ReportingController: component,
		ReportingInstance:   e.cfg.Pod,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}
	if ev.Warning {
		published.Type = "Warning"
	}
	events := path.Join("/api/v1/namespaces", e.cfg.Namespace, "events")
	_, err := kuberest.Send(ctx, e.cfg.Client.Post().AbsPath(events), published)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	// Another pod of the Deployment, or this one earlier, has said the same.
	patch, err := json.Marshal(map[string]any{"lastTimestamp": now})
	if err != nil {
		return err
	}
	return e.cfg.Client.Patch(types.MergePatchType).AbsPath(events, published.Metadata.Name).Body(patch).Do(ctx).Error()
}

// eventName is the same for the same event of every pod, so that replicas do not repeat each other.
func eventName(object *ownpod.Object, ev agent.Event) string {
	sum := sha256.Sum256([]byte(string(object.UID) + "\x00" + ev.Reason + "\x00" + ev.Message))
	return object.Name + "." + hex.EncodeToString(sum[:8])
}

func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(message[:maxMessage-len(ellipsis)], "") + ellipsis
}
