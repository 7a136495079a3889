//go:build e2e

package install

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wantConfined checks a daemon's Pods by what they ask for and its processes by what the kernel gave them: no root, no capabilities, no
// way to gain some, system calls filtered, nothing to write to.
func wantConfined(t *testing.T, namespace, selector, program string, replicas int) {
	t.Helper()
	var list struct {
		Items []struct {
			Spec struct {
				Containers []struct {
					SecurityContext struct {
						ReadOnlyRootFilesystem   bool
						AllowPrivilegeEscalation *bool
						Capabilities             struct{ Drop []string }
					}
				}
				SecurityContext struct {
					RunAsNonRoot   bool
					SeccompProfile struct{ Type string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(admin(t, "--namespace", namespace, "get", "pods", "--selector", selector, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != replicas {
		t.Errorf("%d pods %s, want %d", len(list.Items), selector, replicas)
	}
	for _, pod := range list.Items {
		if s := pod.Spec.SecurityContext; !s.RunAsNonRoot || s.SeccompProfile.Type != "RuntimeDefault" {
			t.Errorf("security context of a pod of %s: %+v", program, s)
		}
		for _, c := range pod.Spec.Containers {
			s := c.SecurityContext
			if !s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || fmt.Sprint(s.Capabilities.Drop) != "[ALL]" {
				t.Errorf("security context of a container of %s: %+v", program, s)
			}
		}
	}
	found := 0
	executables, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range executables {
		if target, err := os.Readlink(exe); err == nil && target == program {
			found++
			wantConfinedProcess(t, filepath.Dir(exe), program)
		}
	}
	if found < replicas {
		t.Errorf("%d processes of %s, want %d", found, program, replicas)
	}
}

func wantConfinedProcess(t *testing.T, proc, program string) {
	t.Helper()
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for text := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(text, ":")
		values[key] = strings.Join(strings.Fields(value), " ")
	}
	for key, want := range map[string]string{
		"Uid": "65532 65532 65532 65532", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		if values[key] != want {
			t.Errorf("%s runs with %s %q, want %q", program, key, values[key], want)
		}
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mounts"))
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(text); len(fields) > 3 && fields[1] == "/" && !strings.HasPrefix(fields[3], "ro") {
			t.Errorf("%s can write to its root: %s", program, text)
		}
	}
}
