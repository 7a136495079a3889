// Command agentk-gitops is the GitOps engine. agentk starts it; it is of no use by hand.
package main

import (
	"os"

	"gitlab.com/agentk/agentk/internal/gitops/engine"
)

func main() { os.Exit(engine.Main()) }
