// Command images builds the container images of both daemons, without a container daemon and without a registry: cross-compiled
// static binaries, a CA bundle and a software bill of materials, packed as OCI layouts. The same commit, built with the same Go, gives
// the same bytes on every machine, so that whoever doubts an image can build it and compare digests. "make images" runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/internal/version"
)

// buildLimit bounds one run; a cold Go cache on a small machine takes minutes per platform.
const buildLimit = 40 * time.Minute

// settings are what one run builds.
type settings struct {
	// source is the root of the checkout, out the folder that is written to.
	source, out string
	// registry is the part of the names before the image: "registry.gitlab.com/agentk/agentk".
	registry string
	// version is the tag, and what the daemons say about themselves. commit likewise.
	version, commit string
	// created is the time stamp of everything inside.
	created   time.Time
	platforms []platform
	images    []image
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	s, err := parse(ctx, args, getenv)
	if err != nil {
		return err
	}
	if err = os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	base, err := baseLayer(s)
	if err != nil {
		return fmt.Errorf("base layer: %w", err)
	}
	for _, i := range s.images {
		digest, err := s.build(ctx, i, base)
		if err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		fmt.Fprintf(out, "%s\t%s@%s\n", filepath.Join(s.out, i.name+".tar"), s.reference(i), digest)
	}
	return nil
}

// parse reads the command line, and asks git for what it leaves open.
func parse(ctx context.Context, args []string, getenv func(string) string) (settings, error) {
	s := settings{version: version.Version}
	f := flag.NewFlagSet("images", flag.ContinueOnError)
	f.StringVar(&s.source, "source", ".", "root of the checkout")
	f.StringVar(&s.out, "out", filepath.Join("bin", "images"), "folder for the images")
	f.StringVar(&s.registry, "registry", "registry.gitlab.com/agentk/agentk", "registry and project in the names of the images")
	f.StringVar(&s.version, "version", s.version, "tag of the images and version of the daemons")
	platforms := f.String("platforms", or(getenv("PLATFORMS"), "linux/amd64,linux/arm64,linux/arm/v7"), "platforms, separated by commas")
	names := f.String("images", "kas,agentk", "which images, separated by commas")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	for text := range strings.SplitSeq(*platforms, ",") {
		p, err := parsePlatform(strings.TrimSpace(text))
		if err != nil {
			return s, err
		}
		s.platforms = append(s.platforms, p)
	}
	for name := range strings.SplitSeq(*names, ",") {
		i, err := find(strings.TrimSpace(name))
		if err != nil {
			return s, err
		}
		s.images = append(s.images, i)
	}
	return s, s.identify(ctx, getenv)
}

// reference is the full name of an image.
func (s settings) reference(i image) string { return s.registry + "/" + i.name + ":" + s.version }

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
