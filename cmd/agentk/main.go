// Command agentk runs in a Kubernetes cluster, connects it to kas and performs the requests that arrive there. See agentk --help.
package main

import (
	"os"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/agentk/cli"
)

func main() { os.Exit(cli.Main(agentk.Run, os.Args[1:], cli.OS())) }
