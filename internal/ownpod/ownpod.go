// Package ownpod finds the Deployment that the agent's own pod belongs to: what the agent makes for itself in the cluster belongs to the
// Deployment, and goes with it, and what it has to say is shown there.
package ownpod

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// asMetadata asks for an object's metadata alone; the whole object will do.
const asMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

const deployment = "Deployment"

// Object names an object of the cluster in the form in which Events do.
type Object struct {
	Kind       string    `json:"kind"`
	APIVersion string    `json:"apiVersion"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid,omitempty"`
}

// Find follows the owners of a pod as far as they can be read, and returns the Deployment, or the pod if it has none. client is one of
// package kuberest. With an error, which says what could not be read, the answer may be another one later.
func Find(ctx context.Context, client rest.Interface, namespace, name string) (*Object, error) {
	object := &Object{Kind: "Pod", APIVersion: "v1", Namespace: namespace, Name: name}
	pod, err := get(ctx, client, "/api/v1", namespace, "pods", name)
	if err != nil {
		return object, fmt.Errorf("read the agent's own pod: %w", err)
	}
	object.UID = pod.UID
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return object, nil
	}
	set, err := get(ctx, client, "/apis/apps/v1", namespace, "replicasets", owner.Name)
	if err != nil {
		return object, fmt.Errorf("read the agent's own replica set: %w", err)
	}
	owner = metav1.GetControllerOf(set)
	if owner == nil || owner.Kind != deployment {
		return object, nil
	}
	return &Object{Kind: owner.Kind, APIVersion: owner.APIVersion, Namespace: namespace, Name: owner.Name, UID: owner.UID}, nil
}

// Owner is the Deployment of a pod in the form in which other objects name it; nil if it is not known.
func Owner(ctx context.Context, client rest.Interface, namespace, name string) *metav1.OwnerReference {
	object, err := Find(ctx, client, namespace, name)
	if err != nil || object.Kind != deployment {
		return nil
	}
	return &metav1.OwnerReference{APIVersion: object.APIVersion, Kind: object.Kind, Name: object.Name, UID: object.UID}
}

// get reads what all kinds have: names, UID, owners.
func get(ctx context.Context, client rest.Interface, group, namespace, resource, name string) (*metav1.PartialObjectMetadata, error) {
	answer, err := client.Get().AbsPath(group, "namespaces", namespace, resource, name).SetHeader("Accept", asMetadata).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	object := &metav1.PartialObjectMetadata{}
	return object, json.Unmarshal(answer, object)
}
