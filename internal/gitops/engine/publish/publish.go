// Package publish writes what package status describes: the ConfigMap, and the Events that point at it.
package publish

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	events     = schema.GroupVersionResource{Version: "v1", Resource: "events"}
)

// maxEventMessage is what the API server takes as an Event's message.
const maxEventMessage = 1024

// Reasons of Events.
const (
	SyncSucceeded  = "SyncSucceeded"
	SyncFailed     = "SyncFailed"
	DriftCorrected = "DriftCorrected"
)

// Writer writes the status of one unit. It belongs to one goroutine.
type Writer struct {
	AgentID   int64
	Namespace string
	ID        string // "<agent id>-<project id>"
	Manager   string // field manager
	Reporter  string // the engine's Pod

	uid  types.UID // of the ConfigMap
	last lastEvent
}

// lastEvent is the Event that an equal one is counted up on.
type lastEvent struct {
	name, reason, message string
	count                 int32
	first                 time.Time
}

// Write stores the document. Every client is tried until one is allowed to: the account of the synchronisation first, then the engine's.
func (w *Writer) Write(ctx context.Context, d status.Document, clients ...dynamic.Interface) error {
	return allowed(clients, func(c dynamic.Interface) error { return w.store(ctx, c, d, "") })
}

// Replace stores the document where was is what is stored, or a newer state of the same pass. It does nothing where somebody else, who may be
// another engine, has written since.
func (w *Writer) Replace(ctx context.Context, was, d status.Document, clients ...dynamic.Interface) error {
	return allowed(clients, func(c dynamic.Interface) error {
		stored, err := c.Resource(configMaps).Namespace(w.Namespace).Get(ctx, status.Name(w.ID), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read status ConfigMap %s/%s: %w", w.Namespace, status.Name(w.ID), err)
		}
		text, _, _ := unstructured.NestedString(stored.Object, "data", status.DataKey)
		var now status.Document
		if json.Unmarshal([]byte(text), &now) != nil || now.State != was.State || now.Commit != was.Commit || !now.Started.Equal(was.Started) {
			return nil
		}
		if err := w.store(ctx, c, d, stored.GetResourceVersion()); !apierrors.IsConflict(err) {
			return err
		}
		return nil
	})
}

// store applies the ConfigMap; with a version only over that one.
func (w *Writer) store(ctx context.Context, c dynamic.Interface, d status.Document, version string) error {
	data, err := status.Encode(d)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"data":       map[string]any{status.DataKey: string(data)},
	}}
	u.SetName(status.Name(w.ID))
	u.SetNamespace(w.Namespace)
	u.SetLabels(map[string]string{status.Label: strconv.FormatInt(w.AgentID, 10)})
	if version != "" {
		u.SetResourceVersion(version)
	}
	stored, err := c.Resource(configMaps).Namespace(w.Namespace).
		Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: w.Manager, Force: true})
	if err != nil {
		return fmt.Errorf("write status ConfigMap %s/%s: %w", w.Namespace, u.GetName(), err)
	}
	w.uid = stored.GetUID()
	return nil
}

// allowed tries clients in turn while they are forbidden.
func allowed(clients []dynamic.Interface, do func(dynamic.Interface) error) error {
	var err error
	for _, c := range clients {
		if err = do(c); err == nil || !apierrors.IsForbidden(err) {
			return err
		}
	}
	return err
}

// Event tells of a synchronisation. One that repeats the last one counts that up instead.
func (w *Writer) Event(ctx context.Context, kind, reason, message string, clients ...dynamic.Interface) error {
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage-len("…")], "") + "…"
	}
	now := time.Now()
	if w.last.reason != reason || w.last.message != message {
		sum := sha256.Sum256([]byte(reason + message + now.String()))
		w.last = lastEvent{name: fmt.Sprintf("%s.%x", status.Name(w.ID), sum[:8]), reason: reason, message: message, first: now}
	}
	w.last.count++
	e := corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Name: w.last.name, Namespace: w.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: w.Namespace, Name: status.Name(w.ID), UID: w.uid,
		},
		Type: kind, Reason: reason, Message: message, Count: w.last.count,
		FirstTimestamp: metav1.NewTime(w.last.first), LastTimestamp: metav1.NewTime(now),
		Source:              corev1.EventSource{Component: "agentk-gitops", Host: w.Reporter},
		ReportingController: "agentk-gitops", ReportingInstance: w.Reporter,
	}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	force := true
	return allowed(clients, func(c dynamic.Interface) error {
		_, err := c.Resource(events).Namespace(w.Namespace).
			Patch(ctx, w.last.name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: w.Manager, Force: &force})
		if err != nil {
			return fmt.Errorf("write Event in namespace %s: %w", w.Namespace, err)
		}
		return nil
	})
}
