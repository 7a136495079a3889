package stock

import (
	"encoding/hex"
	"strings"
	"testing"
)

const getObjects = "/gitlab.agent.gitops.rpc.Gitops/GetObjectsToSynchronize"

// lengthened is a length-delimited field of a message.
func lengthened(number byte, content string) string {
	if len(content) > 127 {
		panic("one byte of length has to do")
	}
	return string([]byte{number<<3 | 2, byte(len(content))}) + content
}

// TestAgent16_6_Gitops: an agent of the last version with GitOps fetches manifests, is told of a new commit, and asks again.
func TestAgent16_6_Gitops(t *testing.T) {
	const (
		project = "group/project"
		file    = ".gitlab/agents/lab/config.yaml"
		content = "ci_access: {projects: [{id: group/sub/app, default_namespace: default, access_as: {ci_job: {}}}]}\n"
	)
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	// project_id 1, paths 3 of a glob 1 and a file 2, ref 4 of a branch 2; no commit_id 2.
	request := lengthened(1, project) + lengthened(3, lengthened(1, "**/*.{yaml,yml,json}")) + lengthened(3, lengthened(2, file)) + lengthened(4, lengthened(2, "main"))
	s := a.call(t, getObjects)
	s.last([]byte(request))
	checkAnswer(t, s.answer(t))
	header := string(s.message(t))
	// header 1 of commit_id 1 and project_id 2
	commit := strings.TrimSuffix(strings.TrimPrefix(header, "\x0a\x2c\x0a\x28"), "\x10\x0a")
	if id, err := hex.DecodeString(commit); err != nil || len(id) != 20 || len(header) != 46 {
		t.Fatalf("header %q", header)
	}
	// object 2 of source 1 and data 2, trailer 3
	want := lengthened(1, file) + lengthened(2, content)
	want = string([]byte{0x12, byte(len(want)&0x7f | 0x80), byte(len(want) >> 7)}) + want
	if got := string(s.message(t)); got != want {
		t.Errorf("object %q, want %q", got, want)
	}
	if got := s.message(t); string(got) != "\x1a\x00" {
		t.Errorf("trailer %q", got)
	}
	checkStatus(t, s, "0")

	s = a.call(t, getObjects)
	s.last([]byte(lengthened(1, project) + lengthened(2, commit) + lengthened(3, lengthened(1, "*.yaml"))))
	other := a.call(t, getObjects)
	other.last([]byte(lengthened(1, "group/none") + lengthened(3, lengthened(1, "*.yaml"))))
	if e := other.next(t); !e.end || value(e.fields, "grpc-status") != "5" || value(e.fields, "grpc-message") != "project not found" {
		t.Errorf("another project: %+v", e)
	}
	bad := a.call(t, getObjects)
	bad.last([]byte(lengthened(1, project)))
	if e := bad.next(t); !e.end || value(e.fields, "grpc-status") != "3" {
		t.Errorf("no paths: %+v", e)
	}
	s.silent(t)
}
