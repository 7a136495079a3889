package kube

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Limits of a start. A machine that compiles at the same time may be ten times slower than the usual two to four seconds.
const (
	startLimit    = 2 * time.Minute
	startAttempts = 3
)

// Config says what a control plane consists of. The zero value is etcd and kube-apiserver on loopback.
type Config struct {
	// ControllerManager adds kube-controller-manager: default ServiceAccounts (without which Pods are refused), the rules of the
	// ClusterRoles view, edit and admin (empty without it), deletion of namespaces, garbage collection, Deployments and Jobs up to Pods
	// that nobody schedules.
	ControllerManager bool
	// Scheduler adds kube-scheduler. Useful with a node only.
	Scheduler bool
	// Audit is the level of the audit log ("Metadata", "Request" or "RequestResponse"); empty: no audit log. See AuditEvents.
	Audit string
	// ExtraArgs are further flags of kube-apiserver.
	ExtraArgs []string
	// Dir receives keys, data and logs and is kept by Stop; empty: a temporary folder that Stop removes. It must not hold another run.
	Dir string
	// Host is an address of this machine under which Pods reach the API server; it then listens on all addresses. Empty: loopback only.
	Host string
}

// ControlPlane is a running Kubernetes API. Its exported fields do not change while it runs.
type ControlPlane struct {
	URL             string // https://127.0.0.1:PORT
	Dir             string // keys, data, logs
	Bin             string // folder of kubectl and the servers
	CA              []byte // certificate authority of the API server, PEM
	CAFile          string // the same as a file
	AdminKubeconfig string // path; a client certificate of the group system:masters
	AdminToken      string // bearer token of user token-admin, group system:masters
	AuditLog        string // path, one JSON object per line; empty without Config.Audit

	cfg       Config
	authority *authority
	port      int
	etcdPort  int
	temporary bool
	client    *http.Client

	etcd       *process
	apiServer  *process
	apiArgs    []string
	apiPath    string
	controller *process
	scheduler  *process
}

// Start brings up a control plane and returns when it answers and its system namespaces exist (with a controller-manager: the default
// ServiceAccount too). ctx bounds the start, not the life: that ends with Stop, or with this process.
func Start(ctx context.Context, cfg Config) (*ControlPlane, error) {
	bin, err := Binaries(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		cp, err := start(ctx, cfg, bin)
		if err == nil {
			return cp, nil
		}
		if attempt == startAttempts || !portTaken(err) {
			return nil, fmt.Errorf("start control plane: %w", err)
		}
	}
}

func start(ctx context.Context, cfg Config, bin string) (*ControlPlane, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cp := &ControlPlane{cfg: cfg, Bin: bin}
	err := cp.prepare()
	if err == nil {
		err = cp.run(ctx)
	}
	if err != nil {
		cp.Stop()
		return nil, err
	}
	return cp, nil
}

// prepare chooses folder and ports and writes keys and configuration.
func (cp *ControlPlane) prepare() error {
	var err error
	if cp.Dir, cp.temporary, err = workDir(cp.cfg.Dir); err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	cp.port, cp.etcdPort = ports[0], ports[1]
	cp.URL = fmt.Sprintf("https://127.0.0.1:%d", cp.port)
	if err := cp.writeKeys(); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	if err := cp.writeAuditPolicy(); err != nil {
		return err
	}
	cp.client, err = cp.newClient()
	return err
}

// run starts the programs, each when the one it needs answers.
func (cp *ControlPlane) run(ctx context.Context) error {
	var err error
	if cp.etcd, err = cp.spawn(ctx, "etcd", cp.etcdArgs()...); err != nil {
		return err
	}
	if cp.apiPath, err = program(ctx, cp.Bin, "kube-apiserver"); err != nil {
		return err
	}
	cp.apiArgs = cp.apiServerArgs()
	if err := cp.StartAPIServer(ctx); err != nil {
		return err
	}
	if cp.cfg.Scheduler {
		if cp.scheduler, err = cp.spawn(ctx, "kube-scheduler", cp.schedulerArgs()...); err != nil {
			return err
		}
	}
	if !cp.cfg.ControllerManager {
		return nil
	}
	if cp.controller, err = cp.spawn(ctx, "kube-controller-manager", cp.controllerArgs()...); err != nil {
		return err
	}
	return cp.wait(ctx, "default ServiceAccount", func() error {
		return cp.call(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
}

// KillAPIServer ends kube-apiserver without warning; open connections break. The data stays.
func (cp *ControlPlane) KillAPIServer() {
	cp.apiServer.stop()
	cp.client.CloseIdleConnections()
}

// StartAPIServer brings kube-apiserver back after KillAPIServer, on the same port with the same data.
func (cp *ControlPlane) StartAPIServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var err error
	if cp.apiServer, err = spawn(cp.logs(), "kube-apiserver", cp.apiPath, cp.apiArgs...); err != nil {
		return err
	}
	err = cp.wait(ctx, "kube-apiserver", func() error {
		return cp.call(ctx, http.MethodGet, "/readyz", nil, nil)
	})
	if err != nil {
		return err
	}
	return cp.wait(ctx, "namespace default", func() error {
		return cp.call(ctx, http.MethodGet, "/api/v1/namespaces/default", nil, nil)
	})
}

// Stop ends all programs, waits for them, and removes what Start wrote to a temporary folder. It may be called more than once.
func (cp *ControlPlane) Stop() {
	for _, p := range cp.processes() {
		p.stop()
	}
	if cp.client != nil {
		cp.client.CloseIdleConnections()
	}
	if cp.temporary {
		_ = os.RemoveAll(cp.Dir)
	}
}

// wait polls until check succeeds; it gives up when ctx ends or one of the programs does.
func (cp *ControlPlane) wait(ctx context.Context, what string, check func() error) error {
	return wait(ctx, what, cp.processes(), check)
}

// processes returns what should be running.
func (cp *ControlPlane) processes() []*process {
	var started []*process
	for _, p := range []*process{cp.scheduler, cp.controller, cp.apiServer, cp.etcd} {
		if p != nil {
			started = append(started, p)
		}
	}
	return started
}

func (cp *ControlPlane) spawn(ctx context.Context, name string, args ...string) (*process, error) {
	path, err := program(ctx, cp.Bin, name)
	if err != nil {
		return nil, err
	}
	return spawn(cp.logs(), name, path, args...)
}

func (cp *ControlPlane) logs() string { return filepath.Join(cp.Dir, "logs") }

// workDir makes the folder of a control plane: the one asked for, or a temporary one.
func workDir(dir string) (string, bool, error) {
	temporary := dir == ""
	var err error
	if temporary {
		dir, err = os.MkdirTemp("", "agentk-kube-")
	} else {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", false, err
	}
	for _, sub := range []string{"pki", "logs", "kubeconfig"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return dir, temporary, err
		}
	}
	return dir, temporary, nil
}
