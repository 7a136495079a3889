package leader

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"time"

	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/kuberest"
)

const (
	// releaseLimit is how long giving the Lease up may take; it would run out by itself.
	releaseLimit = 5 * time.Second
	// releaseAttempts is how often it is tried when the Lease is not the one that was seen last.
	releaseAttempts = 3
)

// attempt takes or renews the Lease if it is free or this pod's. No error and false: somebody else holds it.
func (e *Elector) attempt(ctx context.Context, limit time.Duration) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	held, err = e.once(ctx)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		held, err = e.once(ctx) // somebody was quicker: see who
	}
	return held, err
}

func (e *Elector) once(ctx context.Context) (held bool, err error) {
	lease, err := e.leases.get(ctx)
	if apierrors.IsNotFound(err) {
		return e.create(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("read Lease %s/%s: %w", e.cfg.Namespace, e.cfg.Name, err)
	}
	e.observe(lease)
	holder := holderOf(lease)
	if holder != "" && holder != e.cfg.Identity && time.Since(e.at) < durationOf(lease, e.cfg.Duration) {
		if holder != e.holder {
			e.holder = holder
			e.cfg.Log.Info("Another pod leads", zap.String("lease", e.cfg.Name), zap.String("holder", holder))
		}
		return false, nil
	}
	e.fill(lease, holder != e.cfg.Identity)
	return e.write(ctx, lease)
}

func (e *Elector) create(ctx context.Context) (bool, error) {
	lease := &coordinationv1.Lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Namespace: e.cfg.Namespace, Name: e.cfg.Name},
	}
	if e.cfg.Owner != nil {
		if owner := e.cfg.Owner(ctx); owner != nil {
			lease.OwnerReferences = []metav1.OwnerReference{*owner}
		}
	}
	e.fill(lease, true)
	lease, err := e.leases.create(ctx, lease)
	if err != nil {
		return false, fmt.Errorf("create Lease %s/%s: %w", e.cfg.Namespace, e.cfg.Name, err)
	}
	e.observe(lease)
	return true, nil
}

func (e *Elector) write(ctx context.Context, lease *coordinationv1.Lease) (bool, error) {
	lease, err := e.leases.update(ctx, lease)
	if err != nil {
		return false, fmt.Errorf("update Lease %s/%s: %w", e.cfg.Namespace, e.cfg.Name, err)
	}
	e.observe(lease)
	return true, nil
}

// release gives the Lease up, so that another pod need not wait until it runs out.
func (e *Elector) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseLimit)
	defer cancel()
	err := e.giveUp(ctx, e.seen)
	// A renewal that was under way at the end of the term may have arrived, though nobody has seen its answer.
	for attempt := 1; apierrors.IsConflict(err) && attempt < releaseAttempts; attempt++ {
		var lease *coordinationv1.Lease
		if lease, err = e.leases.get(ctx); err == nil {
			err = e.giveUp(ctx, lease)
		}
	}
	if err != nil {
		e.cfg.Log.Warn("The Lease was not given up, it will run out", zap.String("lease", e.cfg.Name), zap.Error(err))
	}
}

// giveUp leaves a Lease to others if this pod holds it.
func (e *Elector) giveUp(ctx context.Context, lease *coordinationv1.Lease) error {
	if holderOf(lease) != e.cfg.Identity {
		return nil
	}
	lease = lease.DeepCopy()
	now := metav1.NowMicro()
	one, none := int32(1), ""
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &none, &one
	lease.Spec.RenewTime, lease.Spec.AcquireTime = &now, &now
	_, err := e.write(ctx, lease)
	return err
}

// fill makes the Lease this pod's, from now on if taken.
func (e *Elector) fill(lease *coordinationv1.Lease, taken bool) {
	now := metav1.NowMicro()
	seconds := int32((e.cfg.Duration + time.Second - 1) / time.Second)
	if taken {
		lease.Spec.AcquireTime = &now
		changes := int32(0)
		if lease.Spec.LeaseTransitions != nil {
			changes = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions = &changes
	}
	lease.Spec.HolderIdentity = &e.cfg.Identity
	lease.Spec.LeaseDurationSeconds = &seconds
	lease.Spec.RenewTime = &now
}

// observe keeps the Lease, and the time if it is not the one that was seen before.
func (e *Elector) observe(lease *coordinationv1.Lease) {
	if e.seen == nil || e.seen.ResourceVersion != lease.ResourceVersion {
		e.at = time.Now()
	}
	e.seen = lease
	if holderOf(lease) == e.cfg.Identity {
		e.holder = e.cfg.Identity
	}
}

func holderOf(lease *coordinationv1.Lease) string {
	if lease == nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// durationOf is how long the Lease counts, in the opinion of its holder.
func durationOf(lease *coordinationv1.Lease, otherwise time.Duration) time.Duration {
	if s := lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		return time.Duration(*s) * time.Second
	}
	return otherwise
}

// leases reads and writes one Lease.
type leases struct {
	client          rest.Interface
	namespace, name string
}

func (l leases) path(more ...string) string {
	return path.Join(append([]string{"/apis/coordination.k8s.io/v1/namespaces", l.namespace, "leases"}, more...)...)
}

func (l leases) get(ctx context.Context) (*coordinationv1.Lease, error) {
	return read(kuberest.Answer(l.client.Get().AbsPath(l.path(l.name)).Do(ctx)))
}

func (l leases) create(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return l.send(ctx, l.client.Post().AbsPath(l.path()), lease)
}

func (l leases) update(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return l.send(ctx, l.client.Put().AbsPath(l.path(l.name)), lease)
}

func (l leases) send(ctx context.Context, request *rest.Request, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return read(kuberest.Send(ctx, request, lease))
}

func read(body []byte, err error) (*coordinationv1.Lease, error) {
	if err != nil {
		return nil, err
	}
	lease := &coordinationv1.Lease{}
	if err := json.Unmarshal(body, lease); err != nil {
		return nil, fmt.Errorf("the API server's answer is no Lease: %w", err)
	}
	return lease, nil
}
