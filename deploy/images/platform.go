package main

import (
	"fmt"
	"strings"
)

// platform is what an image runs on, in the words of OCI.
type platform struct{ os, arch, variant string }

// parsePlatform reads "os/arch" or "os/arch/variant".
func parsePlatform(text string) (platform, error) {
	switch text {
	case "linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x", "linux/riscv64":
	default:
		return platform{}, fmt.Errorf("platform %q: must be of the form linux/amd64, linux/arm64 or linux/arm/v7", text)
	}
	parts := append(strings.Split(text, "/"), "")
	return platform{os: parts[0], arch: parts[1], variant: parts[2]}, nil
}

func (p platform) String() string {
	return strings.TrimSuffix(p.os+"/"+p.arch+"/"+p.variant, "/")
}

func (p platform) fileName() string { return strings.ReplaceAll(p.String(), "/", "-") }

// environment makes Go compile for the platform, whatever the environment of the caller says: what is compiled must not depend on it.
func (p platform) environment() []string {
	env := []string{
		"CGO_ENABLED=0", "GOOS=" + p.os, "GOARCH=" + p.arch,
		"GOAMD64=v1", "GOARM64=v8.0", "GOARM=7", "GOPPC64=power8", "GORISCV64=rva20u64",
		"GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off", "GODEBUG=",
	}
	if p.variant != "" {
		env = append(env, "GOARM="+strings.TrimPrefix(p.variant, "v"))
	}
	return env
}
