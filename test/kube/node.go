package kube

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/test/tool"
)

// link is the machine's end of the wire to the node. It vanishes with the node's network namespace.
const link = "kc0"

//go:embed node/namespaces.sh
var namespacesScript string

// node is a machine inside the machine: containerd, kubelet and kube-proxy in PID, mount and network namespaces of their own. Its rules,
// bridge, routes and mounts never touch the machine's own, and the end of its first process (init) ends all others with it.
type node struct {
	dir, logs, pki string
	pause          string // path of the program that serves as init

	init      int // process id, as the machine sees it; 0: none
	processes []*process
	sysctls   map[string][]byte
}

// installNodePackages installs what the node takes from Debian, if anything is missing.
func installNodePackages(ctx context.Context) error {
	packages := []string{
		"containerd", "runc", "containernetworking-plugins", "iptables", "nftables", "iproute2", "conntrack", "busybox-static",
	}
	_, err := os.Stat("/usr/lib/cni/bridge")
	missing := err != nil
	for _, program := range []string{"containerd", "ctr", "runc", "iptables", "nft", "ip", "conntrack", "busybox"} {
		if _, found := tool.Find(program); !found {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	if err := tool.InstallPackages(ctx, packages...); err != nil {
		return fmt.Errorf("a part of the node is missing: %w", err)
	}
	return nil
}

// open makes the namespaces and the link to the machine, and starts containerd.
func (n *node) open(ctx context.Context) error {
	if err := n.writeConfigs(); err != nil {
		return err
	}
	n.rememberSysctls()
	holder, err := spawn(n.logs, "namespaces", "unshare", "--fork", "--kill-child", "--pid", "--mount", "--net",
		"--propagation", "private", "--mount-proc", n.pause)
	if err != nil {
		return err
	}
	n.processes = append(n.processes, holder)
	err = wait(ctx, "namespaces of the node", n.processes, func() error { return n.findInit(holder.cmd.Process.Pid) })
	if err != nil {
		return err
	}
	if err := n.connect(ctx); err != nil {
		return err
	}
	if err := n.spawn("containerd", "containerd", "--config", filepath.Join(n.dir, "etc", "containerd.toml")); err != nil {
		return err
	}
	return wait(ctx, "containerd", n.processes, func() error {
		_, err := output(n.command(ctx, "ctr", "--namespace", "k8s.io", "version"))
		return err
	})
}

// findInit looks for the child of unshare once it has become pause.
func (n *node) findInit(parent int) error {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return err
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err
	}
	if program != n.pause {
		return fmt.Errorf("process %d is still %s", pid, program)
	}
	n.init = pid
	return nil
}

// connect lays the wire between machine and node, and the machine's routes to Pods and Services.
func (n *node) connect(ctx context.Context) error {
	// A test run that was killed a moment ago may still be losing its end of the wire.
	_ = exec.CommandContext(ctx, "ip", "link", "delete", link).Run()
	inside := n.command(ctx, "sh", "-c", namespacesScript)
	inside.Env = append(os.Environ(), "MACHINE="+MachineIP, "NODE="+nodeIP, "DIR="+n.dir)
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "ip", "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", strconv.Itoa(n.init)),
		exec.CommandContext(ctx, "ip", "address", "add", MachineIP+"/24", "dev", link),
		exec.CommandContext(ctx, "ip", "link", "set", link, "up"),
		inside,
		exec.CommandContext(ctx, "ip", "route", "replace", "10.244.0.0/24", "via", nodeIP, "dev", link),
		exec.CommandContext(ctx, "ip", "route", "replace", ServiceCIDR, "via", nodeIP, "dev", link),
	} {
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return nil
}

// command is a program inside the node.
func (n *node) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", n.enter(name, args...)...)
}

// spawn starts a program inside the node that stays. The umask reaches the root folders of containers: a strict one would lock out
// everybody but root.
func (n *node) spawn(name, path string, args ...string) error {
	inside := n.enter("sh", append([]string{"-c", `umask 022; exec "$@"`, "sh", path}, args...)...)
	p, err := spawn(n.logs, name, "nsenter", inside...)
	if err != nil {
		return err
	}
	n.processes = append(n.processes, p)
	return nil
}

func (n *node) enter(name string, args ...string) []string {
	return append([]string{"--target", strconv.Itoa(n.init), "--mount", "--net", "--pid", "--", name}, args...)
}

// What the kernel may take to let go of a node that was killed, and how often it is asked.
const (
	goneLimit = 10 * time.Second
	gonePause = 20 * time.Millisecond
)

// close ends init, and with it everything in the node, then removes what the kernel keeps beyond that.
func (n *node) close() {
	if n.init != 0 {
		_ = syscall.Kill(n.init, syscall.SIGKILL)
		n.init = 0
	}
	for _, p := range n.processes {
		p.stop()
	}
	for name, value := range n.sysctls {
		_ = os.WriteFile(name, value, 0o644)
	}
	n.sysctls = nil
	// A group can be removed once the last of its killed processes is gone, and the wire goes with the network namespace: the
	// kernel does both in its own time.
	for deadline := time.Now().Add(goneLimit); (removeCgroups() != nil || linked()) && time.Now().Before(deadline); {
		time.Sleep(gonePause)
	}
}

// linked says whether the machine's end of the wire is still there.
func linked() bool {
	_, err := os.Stat("/sys/class/net/" + link)
	return err == nil
}

// rememberSysctls keeps what kubelet changes for the whole machine.
func (n *node) rememberSysctls() {
	n.sysctls = map[string][]byte{}
	for _, name := range []string{
		"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	} {
		path := filepath.Join("/proc/sys", name)
		if value, err := os.ReadFile(path); err == nil {
			n.sysctls[path] = value
		}
	}
}

// removeCgroups removes the empty groups of the node's Pods, innermost first.
func removeCgroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/*/kubepods"} {
		roots, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, root := range roots {
			errs = append(errs, removeFolders(root))
		}
	}
	return errors.Join(errs...)
}

func removeFolders(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if entry.IsDir() {
			errs = append(errs, removeFolders(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(append(errs, syscall.Rmdir(dir))...)
}
