// Package e2e holds the tests that need a real node. kas and agentk run as real processes, and kubectl and helm use the kubeconfig of a
// CI job: what passes here passes for a user. They have the build tag e2e, as a node needs root and a minute.
package e2e
