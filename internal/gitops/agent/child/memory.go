package child

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// watchMemory looks at the resident memory of a process until ctx ends; an error says that it is too much.
func watchMemory(ctx context.Context, pid int, limit int64, look time.Duration) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		resident, err := Resident(pid)
		if err != nil {
			continue // the process has ended, which others notice
		}
		if resident > limit {
			return fmt.Errorf("it needed more than its memory limit of %s (--gitops-memory-limit)", resource.NewQuantity(limit, resource.BinarySI))
		}
	}
}

// Resident is the memory that a process has in use, in bytes.
func Resident(pid int) (int64, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(content)
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of process %d has %d fields", pid, len(fields))
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// cgroupLimits are the files in which a container finds its memory limit.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// Fit returns the part of want that fits into this container beside own bytes of agentk's; without a limit all of it. Where nothing
// would be left it returns own: the engine is told to be too large rather than agentk to be killed.
func Fit(want, own int64) int64 {
	for _, file := range cgroupLimits {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
		if err != nil { // "max"
			return want
		}
		return min(want, max(limit-own, own))
	}
	return want
}
