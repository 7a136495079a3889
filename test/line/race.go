//go:build race

package line

// raceBuild: daemons started by a test binary with the race detector have it too.
const raceBuild = true
