// Package line runs the whole line as real processes: a folder of git repositories, kas with the standalone backend, agentk in front of
// a real Kubernetes API, and CI jobs with the kubeconfig that kas writes for them. The demo, the end-to-end tests and the benchmarks
// all stand on it, so what they show is what a user gets from the two binaries.
//
// Everything of one run is below one folder: certificates, repositories, configuration files, tokens, logs. Nothing outside is touched,
// and every process dies with the one that started it.
package line
