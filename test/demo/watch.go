package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// watch starts a watch, changes what it watches, and waits until the change shows.
func (s *story) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	args := "get configmaps --watch --output-watch-events -o custom-columns=EVENT:.type,NAME:.object.metadata.name,VERSION:.object.data.version"
	s.narrator.Command("kubectl", args, "&")
	cmd, err := s.line.KubectlCommand(ctx, shopJob, strings.Fields(args)...)
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string)
	go read(ctx, stdout, lines)
	err = s.await(ctx, lines, "ADDED", "1")
	if err == nil {
		err = s.applyRelease(ctx, 2, "configmap/release configured")
	}
	if err == nil {
		err = s.await(ctx, lines, "MODIFIED", "2")
	}
	// The watch has no end of its own.
	cancel()
	for range lines {
	}
	if waitErr := cmd.Wait(); err != nil {
		err = errors.Join(err, waitErr, errors.New(strings.TrimSpace(stderr.String())))
	}
	return err
}

// read passes on the lines of a program's output, and closes lines at its end.
func read(ctx context.Context, from io.Reader, lines chan<- string) {
	defer close(lines)
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		select {
		case lines <- scanner.Text():
		case <-ctx.Done():
			return
		}
	}
}

// await shows what the watch says until a line has all these words.
func (s *story) await(ctx context.Context, lines <-chan string, words ...string) error {
	for {
		select {
		case text, open := <-lines:
			if !open {
				return errors.New("the watch ended early")
			}
			s.narrator.Output("(watch) " + text)
			if fields := strings.Fields(text); len(fields) == 3 && fields[0] == words[0] && fields[2] == words[1] {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the watch did not show %s: %w", strings.Join(words, " "), ctx.Err())
		}
	}
}
