// Package config reads the configuration file of kas: the file as it is, its constraints, its defaults, and what its parts
// must agree on. A value is validated before defaults are applied, so that a wrong value is never mistaken for a missing one.
package config

import (
	"context"
	"fmt"
	"io"
	"os"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/protoyaml"
	"gitlab.com/agentk/agentk/internal/rules"
)

// maxFileSize bounds the configuration file; a standalone section with many thousand jobs fits.
const maxFileSize = 32 << 20

// Config is a configuration file that may be used as it is.
type Config struct {
	// Path of the file, for reading it again.
	Path string
	// File is the content with all defaults filled in. Sections whose absence means something stay nil: agent.kubernetes_api
	// (no proxy), observability.tracing and sentry, standalone, and with standalone also gitlab, gitaly, redis, api, private_api.
	File *kascfg.ConfigurationFile
	// Warnings are keys that kas does not know, each with its path and line.
	Warnings []string
	// Unsupported are parts of the file that are accepted but have no effect, each with its path and line. To be logged once.
	Unsupported []string
}

// Standalone says that kas stands beside no GitLab: its own file says what GitLab would.
func (c *Config) Standalone() bool { return c.File.GetStandalone() != nil }

// Load reads a configuration file, and runs the command that it may name in config.command: what that prints is laid over the
// file before anything is checked. The error names every mistake with its path and line.
func Load(ctx context.Context, path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("configuration file %s: bigger than %d bytes", path, maxFileSize)
	}
	over, err := commandOutput(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: config.command: %w", path, err)
	}
	return parseFile(data, over, path)
}

// commandOutput is what the command of a file prints, nil if it names none. Output that could not be a part of the file is told
// here, with its own lines.
func commandOutput(ctx context.Context, data []byte) ([]byte, error) {
	file := &kascfg.ConfigurationFile{}
	if _, err := protoyaml.Decode(data, file, options(nil)); err != nil || file.GetConfig().GetCommand() == "" {
		return nil, nil //nolint:nilerr // the mistakes of the file are told when it is parsed
	}
	over, err := runCommand(ctx, file.GetConfig().GetCommand())
	if err != nil {
		return nil, err
	}
	if _, err := protoyaml.Decode(over, &kascfg.ConfigurationFile{}, options(nil)); err != nil {
		return nil, fmt.Errorf("its output: %w", err)
	}
	return over, nil
}

// options: a newer GitLab may write keys into the file that kas does not know; the standalone section is written by people.
func options(over []byte) protoyaml.Options {
	return protoyaml.Options{WarnUnknown: true, Strict: []string{"standalone"}, Overlay: over}
}

// parseFile reads the content of a file with over laid over it. It opens no file that the content names. The error wraps
// protoyaml.Mistakes.
func parseFile(data, over []byte, path string) (*Config, error) {
	file := &kascfg.ConfigurationFile{}
	res, err := protoyaml.Decode(data, file, options(over))
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	c := &Config{Path: path, File: file}
	for _, w := range res.Warnings {
		c.Warnings = append(c.Warnings, w.String())
	}
	var found []rules.Violation
	found = append(found, rules.Check(file)...)
	found = append(found, checkSections(file)...)
	found = append(found, checkStandalone(file.GetStandalone())...)
	for _, v := range findUnsupported(file) {
		c.Unsupported = append(c.Unsupported, res.Positions.At(v.Path, "%s", v.Msg).String())
	}
	applyDefaults(file)
	found = append(found, checkAgreement(file)...)
	if len(found) > 0 {
		return nil, fmt.Errorf("configuration file %s: %w", path, locate(found, res.Positions))
	}
	return c, nil
}

func locate(found []rules.Violation, positions protoyaml.Positions) protoyaml.Mistakes {
	mistakes := make(protoyaml.Mistakes, len(found))
	for i, v := range found {
		mistakes[i] = positions.At(v.Path, "%s", v.Msg)
	}
	return mistakes
}
