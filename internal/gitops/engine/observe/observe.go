// Package observe follows the objects of one kind without keeping them: a LIST, then a WATCH from there, begun again when it breaks.
// An informer would do the same and hold every object of the kind in memory, those of others too.
package observe

import (
	"context"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"gitlab.com/agentk/agentk/internal/backoff"
)

// retry is how a broken watch is begun again.
var retry = backoff.Policy{Initial: 500 * time.Millisecond, Max: 30 * time.Second, Factor: 2, Jitter: 0.5, ResetAfter: 2 * time.Minute}

// watchSeconds is when the API server ends a watch by itself; it is begun again without a LIST.
const watchSeconds = int64(600)

// Handler is told about objects, by one goroutine.
type Handler struct {
	// Listed gets a complete list: after the start, and whenever changes may have been missed. The items are the handler's for the call.
	Listed func(items []unstructured.Unstructured)
	// Changed gets an object that is new or different.
	Changed func(u *unstructured.Unstructured)
	// Deleted gets the last state of an object.
	Deleted func(u *unstructured.Unstructured)
}

// Unreadable says that the account may not list or watch the kind, or that there is no such kind (any more).
func Unreadable(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}

// Run follows a kind until ctx ends (it returns nil then) or the kind turns out unreadable (it returns why).
func Run(ctx context.Context, resource dynamic.ResourceInterface, h Handler) error {
	b := backoff.New(retry)
	for ctx.Err() == nil {
		version, err := list(ctx, resource, h)
		for err == nil && ctx.Err() == nil {
			version, err = follow(ctx, resource, version, h)
		}
		if ctx.Err() != nil {
			return nil
		}
		if Unreadable(err) {
			return err
		}
		if !sleep(ctx, b.Next()) {
			return nil
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func list(ctx context.Context, resource dynamic.ResourceInterface, h Handler) (string, error) {
	l, err := resource.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	h.Listed(l.Items)
	return l.GetResourceVersion(), nil
}

// errEnded says that a watch broke off without a word: it may have been cut, and is not begun again at full speed.
var errEnded = errors.New("the watch ended at once")

// follow watches from version until the watch ends, and returns where to go on.
func follow(ctx context.Context, resource dynamic.ResourceInterface, version string, h Handler) (string, error) {
	seconds := watchSeconds
	begun := time.Now()
	w, err := resource.Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
	if err != nil {
		return version, err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return version, apierrors.FromObject(event.Object)
		}
		u, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return version, &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusInternalServerError, Message: "watch sent no object"}}
		}
		version = u.GetResourceVersion()
		switch event.Type {
		case watch.Added, watch.Modified:
			h.Changed(u)
		case watch.Deleted:
			h.Deleted(u)
		}
	}
	if time.Since(begun) < time.Second {
		return version, errEnded
	}
	return version, nil
}
