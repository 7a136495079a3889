// Command package lints the Helm charts of the repository, whose top folder it is run in, and packs them into a folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

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
	if len(args) != 1 {
		return errors.New("usage: package FOLDER")
	}
	helm, err := kube.Helm(ctx)
	if err != nil {
		return err
	}
	found, err := filepath.Glob("charts/*/Chart.yaml")
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no chart in charts: %w", err)
	}
	for _, file := range found {
		chart := filepath.Dir(file)
		for _, args := range [][]string{{"lint", "--strict", "--quiet", chart}, {"package", chart, "--destination", args[0]}} {
			cmd := exec.CommandContext(ctx, helm, args...)
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("helm %s %s: %w", args[0], chart, err)
			}
		}
	}
	return nil
}
