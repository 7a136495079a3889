package gitlab

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/rules"
)

// FuzzDecode: no answer brings kas down, none that is accepted breaks a constraint, and no error quotes one.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{agentInfoJSON, projectInfoJSON, allowedJSON, userJSON, "{}", "[]", "null", `{"user":null}`, `{"job":{"id":"1e3"}}`, "\xff", "{"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, msg := range []proto.Message{
			&gitlabapi.GetAgentInfoResponse{}, &gitlabapi.GetProjectInfoResponse{}, &gitlabapi.AllowedAgentsForJob{}, &gitlabapi.AuthorizeProxyUserResponse{},
		} {
			err := decode(body, "/p", msg)
			if err == nil {
				if err := rules.Validate(msg); err != nil {
					t.Errorf("accepted: %v", err)
				}
				continue
			}
			rest, malformed := strings.CutPrefix(err.Error(), "the answer for path /p is malformed")
			if malformed && rest != "" && place.FindString(rest) != strings.TrimSpace(rest) {
				t.Errorf("got %q", err)
			}
		}
	})
}

// FuzzModulePath: however a path is read on the way, it stays below its module.
func FuzzModulePath(f *testing.F) {
	for _, seed := range []string{"/", "/a/b", "/../x", "/%2e%2e/x", "/%252e./x", "/a%2f..%2fx", "/..;a/x", "/100%25", `/\..\x`} {
		f.Add("m", seed)
	}
	f.Fuzz(func(t *testing.T, module, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		got, err := modulePath(module, u)
		if err != nil {
			return
		}
		for range 5 {
			if clean := path.Clean("/modules/" + strings.ReplaceAll(got, `\`, "/")); clean != "/modules/"+module && !strings.HasPrefix(clean, "/modules/") {
				t.Fatalf("%q leads to %q", target, clean)
			}
			again, err := url.PathUnescape(got)
			if err != nil {
				return
			}
			got = again
		}
	})
}
