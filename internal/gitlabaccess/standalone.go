package gitlabaccess

import (
	"context"
	"io"
	"net/http"
	"strings"
)

// noGitLab is what modules are told where there is no GitLab, in the form of its errors.
const noGitLab = `{"message":"404 Not Found: this kas stands beside no GitLab"}`

// NoGitLab is Modules of a standalone kas: nothing is found.
type NoGitLab struct{}

// Module implements Modules.
func (NoGitLab) Module(_ context.Context, _, _ string, r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode:    http.StatusNotFound,
		Status:        "404 Not Found",
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(strings.NewReader(noGitLab)),
		ContentLength: int64(len(noGitLab)),
		Request:       r,
	}, nil
}
