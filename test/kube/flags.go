package kube

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// Addresses of the cluster. Without a node nothing listens on them.
const (
	ServiceCIDR = "10.96.0.0/16"
	PodCIDR     = "10.244.0.0/16"

	// apiServiceIP is the address of the Service "kubernetes", the first of ServiceCIDR.
	apiServiceIP = "10.96.0.1"
)

func (cp *ControlPlane) etcdURL(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }

// etcdArgs keeps etcd off the disk's patience: the data lives no longer than the run. It is alone, so its peer address is never used;
// port 0 lets the kernel choose.
func (cp *ControlPlane) etcdArgs() []string {
	client, peer := cp.etcdURL(cp.etcdPort), cp.etcdURL(0)
	return []string{
		"--name=kc", "--data-dir=" + filepath.Join(cp.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=kc=" + peer,
	}
}

func (cp *ControlPlane) apiServerArgs() []string {
	pki := func(name string) string { return filepath.Join(cp.Dir, "pki", name) }
	args := []string{
		"--secure-port=" + strconv.Itoa(cp.port),
		"--etcd-servers=" + cp.etcdURL(cp.etcdPort),
		"--service-cluster-ip-range=" + ServiceCIDR,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--token-auth-file=" + pki("tokens.csv"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.crt"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
	}
	if cp.cfg.Host == "" {
		args = append(args, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none")
	} else {
		args = append(args, "--bind-address=0.0.0.0", "--advertise-address="+cp.cfg.Host)
	}
	if cp.AuditLog != "" {
		args = append(args, "--audit-policy-file="+pki("audit-policy.yaml"), "--audit-log-path="+cp.AuditLog)
	}
	return append(args, cp.cfg.ExtraArgs...)
}

// controllerArgs and schedulerArgs turn the servers of these programs off (port 0): nobody asks them anything.
func (cp *ControlPlane) controllerArgs() []string {
	pki := func(name string) string { return filepath.Join(cp.Dir, "pki", name) }
	return []string{
		"--kubeconfig=" + cp.componentKubeconfig("controller-manager"), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=200", "--kube-api-burst=400", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + pki("sa.key"), "--root-ca-file=" + pki("ca.crt"),
		"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
		"--allocate-node-cidrs=true", "--cluster-cidr=" + PodCIDR, "--service-cluster-ip-range=" + ServiceCIDR,
	}
}

func (cp *ControlPlane) schedulerArgs() []string {
	return []string{"--kubeconfig=" + cp.componentKubeconfig("scheduler"), "--leader-elect=false", "--secure-port=0"}
}

func (cp *ControlPlane) componentKubeconfig(name string) string {
	return filepath.Join(cp.Dir, "kubeconfig", fmt.Sprintf("%s.kubeconfig", name))
}
