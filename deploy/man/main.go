// Command man writes the man pages of both daemons into its own folder, from their command lines. "make gen" runs it.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	agentkcli "gitlab.com/agentk/agentk/internal/agentk/cli"
	kascli "gitlab.com/agentk/agentk/internal/kas/cli"
	"gitlab.com/agentk/agentk/internal/version"
)

func main() {
	if err := run(filepath.Join("deploy", "man")); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

// run replaces the pages of a folder.
func run(dir string) error {
	all, err := pages()
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for name, page := range all {
		if err := os.WriteFile(filepath.Join(dir, name), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages returns the pages by the names of their files.
func pages() (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, root := range []*cobra.Command{kascli.New(nil), agentkcli.New(nil, agentkcli.OS())} {
		if err := add(all, root); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// add adds the page of a command and those of its subcommands.
func add(all map[string][]byte, cmd *cobra.Command) error {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			if err := add(all, sub); err != nil {
				return err
			}
		}
	}
	cmd.DisableAutoGenTag = true // it has the date of today
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	var never time.Time
	header := &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Date: &never, Source: version.Version, Manual: "agentk and kas"}
	var page bytes.Buffer
	if err := doc.GenMan(cmd, header, &page); err != nil {
		return fmt.Errorf("page of %s: %w", cmd.CommandPath(), err)
	}
	all[name+".1"] = bytes.Replace(page.Bytes(), []byte(never.Format("Jan 2006")), nil, 1)
	return nil
}
