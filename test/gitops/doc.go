// Package gitops has the tests of GitOps as a whole: a git push at one end, the cluster at the other, and between them the real kas,
// agentk and agentk-gitops as processes, and a real API server with its controllers. What only one of them has to hold is tested with
// that one. Tests that take long, because a lease has to run out or a retry to come, need the tag e2e.
package gitops
