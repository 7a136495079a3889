# Runs inside the node's namespaces, with these in its environment: MACHINE and NODE (addresses of the two ends of the link), DIR (the
# node's folder). What containers, their runtime and kubelet write to fixed places goes to that folder or to memory.
set -eu
ip link set lo up
ip address add "$NODE/24" dev uplink
ip link set uplink up
ip route add default via "$MACHINE"
echo 1 >/proc/sys/net/ipv4/ip_forward
# absent where the bridge module is not loaded; then bridged packets meet no rules, which is as good
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true
mount --make-rshared /
mkdir -p /run/containerd /run/netns /var/lib/kubelet /var/lib/cni
mount --bind "$DIR/run" /run/containerd
mount --bind "$DIR/kubelet" /var/lib/kubelet
mount --bind "$DIR/addresses" /var/lib/cni
mount --bind "$DIR/log" /var/log
mount -t tmpfs node /run/netns
mount --make-shared /run/netns
mkdir -p /var/log/pods /var/log/containers
