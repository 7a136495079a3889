package leader

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/rest"
)

// LeaseForTest reads a Lease.
func LeaseForTest(ctx context.Context, c rest.Interface, namespace, name string) (*coordinationv1.Lease, error) {
	return leases{client: c, namespace: namespace, name: name}.get(ctx)
}
