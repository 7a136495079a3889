// Package kustomize holds the manifests of agentk: a base for kustomize, and what "agentk generate" fills in.
package kustomize

import "embed"

// Files are the base as kustomize reads it.
//
//go:embed *.yaml
var Files embed.FS
