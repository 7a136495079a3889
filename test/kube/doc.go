// Package kube is a real Kubernetes for tests, benchmarks and the demo, on a machine that has neither a cluster nor a container registry
// nor Docker. Everything in it is built once per machine out of the Go module proxy and kept under the user's cache folder.
//
// There are two sizes. A ControlPlane is etcd and kube-apiserver, with kube-controller-manager if asked: up in two to four seconds, on
// loopback and free ports, as many side by side as a test run wants. A Cluster adds one real node (containerd, kubelet, kube-proxy) for
// what only a node can do: logs, exec, port-forward, Services, helm install --wait. A Cluster needs root and Debian's containerd, and
// there is one per machine at a time: a second one waits.
//
// No test skips for want of Kubernetes: what is missing is built or installed, or the test fails with the command to run.
package kube
