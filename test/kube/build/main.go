// Command build makes the parts of the test bed that are missing on this machine, ahead of the tests and with its progress shown: etcd,
// Kubernetes and kubectl; "build node" also helm, the images of a node and the Debian packages it needs.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"

	"gitlab.com/agentk/agentk/test/kube"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	if _, err := kube.Binaries(ctx); err != nil {
		return err
	}
	switch {
	case len(args) == 0:
		return nil
	case len(args) == 1 && args[0] == "node":
		return kube.PrepareNode(ctx)
	default:
		return errors.New("usage: build [node]")
	}
}
