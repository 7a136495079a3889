package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cpuOf is how many seconds of CPU processes have used together, by the kernel's count.
func cpuOf(pids ...int) (float64, error) {
	total := 0.0
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(after)
		const userField, systemField, ticks = 11, 12, 100 // the kernel's USER_HZ, the same everywhere
		user, err1 := strconv.ParseFloat(fields[userField], 64)
		system, err2 := strconv.ParseFloat(fields[systemField], 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, err
		}
		total += (user + system) / ticks
	}
	return total, nil
}

// memoryOf reads one of a process's figures of memory, such as VmRSS (what it holds now) or VmHWM (the most it held), in MiB.
func memoryOf(pid int, name string) (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, name)
}
