//go:build e2e

package middlebox

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"gitlab.com/agentk/agentk/test/tool"
)

// kasName is a host name that only squid can resolve, by its own hosts file: who reaches kas under it went through squid.
const kasName = "kas.test"

// squidConf lets everybody connect to everything, as far as CONNECT goes; idle tunnels are cut after a minute.
const squidConf = `
http_port %[2]s
http_access allow all
hosts_file %[1]s/hosts
dns_nameservers 127.0.0.1
visible_hostname squid.test
access_log stdio:%[1]s/access.log
cache_log %[1]s/cache.log
pid_filename %[1]s/squid.pid
coredump_dir %[1]s
cache deny all
pinger_enable off
max_filedescriptors 4096
read_timeout 60 seconds
shutdown_lifetime 0 seconds
`

// squid is the only way out of the agents' network.
type squid struct{ program }

// newSquid writes everything squid needs; start and stop are up to the test.
func newSquid(t *testing.T) *squid {
	t.Helper()
	s := &squid{program{
		path: tool.Debian(t, "squid", "squid"), dir: openDir(t), address: net.JoinHostPort("127.0.0.1", freePort(t)),
	}}
	conf := filepath.Join(s.dir, "squid.conf")
	s.args = []string{"-N", "-f", conf}
	for name, content := range map[string]string{
		conf: fmt.Sprintf(squidConf, s.dir, s.address), filepath.Join(s.dir, "hosts"): "127.0.0.1 " + kasName + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		s.dropRoot(t)
	}
	s.showOnFailure(t, "output.log", "cache.log", "access.log")
	return s
}

// openDir is a temporary folder that another user can be given: those of a test are inside one that only the test's user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "squid-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// dropRoot makes squid start as the user it would change to: a process that changes its user forgets to die with us.
func (s *squid) dropRoot(t *testing.T) {
	t.Helper()
	account, err := user.Lookup("proxy")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	s.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
}

// env sends everything through squid.
func (s *squid) env() []string {
	return []string{"HTTP_PROXY=http://" + s.address, "HTTPS_PROXY=http://" + s.address}
}

// accessLog is squid's own record of tunnels, each written when it has ended.
func (s *squid) accessLog(t *testing.T) func() string {
	return func() string { return s.read(t, "access.log") }
}
