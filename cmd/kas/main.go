// Command kas is the server of the GitLab agent for Kubernetes. "kas --help" tells the rest.
package main

import (
	"os"

	"gitlab.com/agentk/agentk/internal/kas"
	"gitlab.com/agentk/agentk/internal/kas/cli"
)

func main() {
	os.Exit(cli.Main(kas.Run, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
