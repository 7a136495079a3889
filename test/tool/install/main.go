// Command install makes sure that a program is there, for the Makefile: install PROGRAM PACKAGE... installs these Debian packages when
// the program is missing (as root on Debian; elsewhere it fails with the command to run).
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	"gitlab.com/agentk/agentk/test/tool"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: install PROGRAM PACKAGE...")
	}
	if _, found := tool.Find(os.Args[1]); found {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := tool.InstallPackages(ctx, os.Args[2:]...)
	stop()
	if err != nil {
		log.Fatalf("%s is missing: %v", os.Args[1], err)
	}
}
