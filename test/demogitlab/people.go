package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// post calls GitLab's API as the maintainer.
func (s *story) post(ctx context.Context, path, body string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.gitlab.URL+"/api/v4"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Close = true
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Private-Token", s.apiToken.Value)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("POST %s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// push commits files to a project and pushes them to GitLab over HTTP, as the maintainer.
func (s *story) push(ctx context.Context, project string, files map[string]string) error {
	clone, url := filepath.Join(s.dir, "clones", project), s.gitlab.URL+"/"+project+".git"
	fresh := false
	if _, err := os.Stat(clone); err != nil {
		fresh = true
		if err := os.MkdirAll(clone, 0o700); err != nil {
			return err
		}
	}
	for name, content := range files {
		path := filepath.Join(clone, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	commands := [][]string{{"add", "--all"}, {"commit", "--quiet", "--message", "Change it"}, {"push", "--quiet", url, "HEAD:main"}}
	if fresh {
		commands = append([][]string{{"init", "--quiet", "--initial-branch=main"}}, commands...)
	}
	s.narrator.Command("git", "push "+url+" HEAD:main")
	for _, args := range commands {
		if err := s.git(ctx, clone, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) git(ctx context.Context, dir string, args ...string) error {
	basic := base64.StdEncoding.EncodeToString([]byte(maintainer + ":" + s.apiToken.Value))
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"HOME=" + s.dir, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Basic " + basic,
		"GIT_AUTHOR_NAME=Maintainer", "GIT_AUTHOR_EMAIL=maintainer@acme.test",
		"GIT_COMMITTER_NAME=Maintainer", "GIT_COMMITTER_EMAIL=maintainer@acme.test",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
