package gitaly

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

const (
	oid1   = "1111111111111111111111111111111111111111"
	oid2   = "2222222222222222222222222222222222222222"
	oid3   = "3333333333333333333333333333333333333333"
	zero40 = "0000000000000000000000000000000000000000"
	zero64 = zero40 + "000000000000000000000000"
	oid64  = oid1 + "444444444444444444444444"
	flush  = "0000"
	start  = "001e# service=git-upload-pack\n0000"
	caps   = "\x00multi_ack symref=refs/x:refs/y symref=HEAD:refs/heads/main object-format=sha1 agent=git/2.43.0"
	caps64 = "\x00multi_ack object-format=sha256 agent=git/2.43.0"
)

func pkt(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "%04x%s\n", len(line)+5, line)
	}
	return b.String()
}

func TestParseAdvertisement(t *testing.T) {
	for name, test := range map[string]struct {
		data string
		refs map[string]string
		want map[string]answer
	}{
		"usual": {
			pkt(oid1+" HEAD"+caps, oid2+" refs/environments/a/deployments/1", oid1+" refs/heads/feature", oid2+" refs/heads/main",
				oid1+" refs/tags/v1", oid3+" refs/tags/v1^{}"),
			map[string]string{
				"HEAD": oid1, "refs/environments/a/deployments/1": oid2, "refs/heads/feature": oid1, "refs/heads/main": oid2,
				"refs/tags/v1": oid3,
			},
			map[string]answer{
				"HEAD": {found, oid1}, "refs/heads/main": {found, oid2}, "refs/heads/mai": {}, "refs/tags/v1": {found, oid3}, "refs/tags/v1^{}": {},
			},
		},
		"empty, new":      {pkt(zero40 + " capabilities^{}" + caps), nil, map[string]answer{"HEAD": {state: empty}, "refs/heads/main": {state: empty}}},
		"empty, SHA-256":  {pkt(zero64 + " capabilities^{}" + caps64), nil, map[string]answer{"HEAD": {state: empty}}},
		"empty, old":      {"", nil, map[string]answer{"HEAD": {state: empty}, "refs/heads/main": {state: empty}}},
		"no capabilities": {pkt(oid1 + " HEAD"), map[string]string{"HEAD": oid1}, map[string]answer{"HEAD": {found, oid1}}},
		"no line feed":    {fmt.Sprintf("%04x%s HEAD", 49, oid1), map[string]string{"HEAD": oid1}, nil},
		"SHA-256":         {pkt(oid64 + " HEAD" + caps64), map[string]string{"HEAD": oid64}, map[string]answer{"HEAD": {found, oid64}}},
		"HEAD unborn, main": {
			pkt(oid1+" refs/heads/a"+caps, oid2+" refs/heads/main", oid3+" refs/heads/master"),
			map[string]string{"refs/heads/a": oid1, "refs/heads/main": oid2, "refs/heads/master": oid3},
			map[string]answer{"HEAD": {found, oid2}},
		},
		"HEAD unborn, master": {
			pkt(oid1+" refs/heads/a"+caps, oid3+" refs/heads/master"),
			map[string]string{"refs/heads/a": oid1, "refs/heads/master": oid3},
			map[string]answer{"HEAD": {found, oid3}},
		},
		"HEAD unborn, others": {
			pkt(oid1+" refs/environments/x"+caps, oid2+" refs/heads/b", oid3+" refs/heads/c"),
			map[string]string{"refs/environments/x": oid1, "refs/heads/b": oid2, "refs/heads/c": oid3},
			map[string]answer{"HEAD": {found, oid2}},
		},
		"only tags": {
			pkt(oid1+" refs/tags/v1"+caps, oid2+" refs/tags/v1^{}"),
			map[string]string{"refs/tags/v1": oid2},
			map[string]answer{"HEAD": {}, "refs/heads/main": {}},
		},
		"shallow": {pkt(oid1+" HEAD"+caps, "shallow "+oid2), map[string]string{"HEAD": oid1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAdvertisement(start + test.data + flush)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got.refs, test.refs) {
				t.Errorf("refs %v", got.refs)
			}
			for ref, want := range test.want {
				if a := got.resolve(ref); a != want {
					t.Errorf("%s: %v, want %v", ref, a, want)
				}
			}
		})
	}
}

func TestParseAdvertisement_Malformed(t *testing.T) {
	for name, test := range map[string]struct{ data, want string }{
		"nothing":              {"", "ends too early"},
		"half a length":        {"00", "ends too early"},
		"only the service":     {pkt("# service=git-upload-pack"), "ends too early"},
		"no flush at the end":  {start + pkt(oid1+" HEAD"), "ends too early"},
		"within a line":        {start + "0032" + oid1, "within a line"},
		"length not hex":       {start + "zzzz", "without its length"},
		"signed length":        {start + "+012", "without its length"},
		"length 1":             {start + "0001" + flush, "impossible length"},
		"length 2":             {start + "0002" + flush, "impossible length"},
		"length 3":             {start + "0003" + flush, "impossible length"},
		"too long":             {start + "fff1" + strings.Repeat("a", 65521), "impossible length"},
		"after the end":        {start + pkt(oid1+" HEAD") + flush + "x", "follows the last flush"},
		"flush after the end":  {start + pkt(oid1+" HEAD") + flush + flush, "follows the last flush"},
		"another service":      {pkt("# service=git-receive-pack") + flush + flush, "begin with its service"},
		"no service":           {flush + flush, "begin with its service"},
		"no first flush":       {pkt("# service=git-upload-pack", oid1+" HEAD") + flush, "not followed by a flush"},
		"version 1":            {start + pkt("version 1", oid1+" HEAD") + flush, "without an object id"},
		"version 2":            {start + pkt("version 2", "ls-refs", "fetch") + flush, "without an object id"},
		"error":                {start + pkt("ERR access denied") + flush, "git says: access denied"},
		"empty line":           {start + "0004" + flush, "not one of a ref"},
		"no name":              {start + pkt(oid1) + flush, "not one of a ref"},
		"empty name":           {start + pkt(oid1+" ") + flush, "not one of a ref"},
		"name with space":      {start + pkt(oid1+" a b") + flush, "not one of a ref"},
		"late capabilities":    {start + pkt(oid1+" HEAD"+caps, oid1+" refs/heads/a\x00b") + flush, "not one of a ref"},
		"short id":             {start + pkt("1111 HEAD") + flush, "without an object id"},
		"upper case id":        {start + pkt(strings.Repeat("A", 40)+" HEAD") + flush, "without an object id"},
		"SHA-256 id in SHA-1":  {start + pkt(oid64+" HEAD"+caps) + flush, "without an object id"},
		"SHA-1 id in SHA-256":  {start + pkt(oid1+" HEAD"+caps64) + flush, "without an object id"},
		"unknown format":       {start + pkt(oid1+" HEAD\x00object-format=md5") + flush, "unknown object format"},
		"ref to zero":          {start + pkt(zero40+" HEAD"+caps) + flush, "points to nothing"},
		"capabilities not 0":   {start + pkt(oid1+" capabilities^{}"+caps) + flush, "points to nothing"},
		"late zero":            {start + pkt(oid1+" HEAD"+caps, zero40+" capabilities^{}") + flush, "points to nothing"},
		"more than no refs":    {start + pkt(zero40+" capabilities^{}"+caps, oid1+" HEAD") + flush, "not one of a ref"},
		"peeled without a tag": {start + pkt(oid1+" refs/tags/v1^{}"+caps) + flush, "does not follow its ref"},
		"peeled elsewhere":     {start + pkt(oid1+" refs/tags/v1"+caps, oid2+" refs/tags/v2^{}") + flush, "does not follow its ref"},
		"peeled twice":         {start + pkt(oid1+" refs/tags/v1"+caps, oid2+" refs/tags/v1^{}", oid2+" refs/tags/v1^{}") + flush, "does not follow"},
		"ref after shallow":    {start + pkt(oid1+" HEAD", "shallow "+oid1, oid1+" refs/heads/a") + flush, "not one of a ref"},
		"shallow nothing":      {start + pkt(oid1+" HEAD", "shallow x") + flush, "without an object id"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseAdvertisement(test.data)
			var malformed protocolError
			if !errors.As(err, &malformed) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func FuzzParseAdvertisement(f *testing.F) {
	f.Add(start + flush)
	f.Add(start + pkt(zero40+" capabilities^{}"+caps) + flush)
	f.Add(start + pkt(oid1+" HEAD"+caps, oid2+" refs/heads/main", oid1+" refs/tags/v1", oid3+" refs/tags/v1^{}", "shallow "+oid1) + flush)
	f.Add(start + pkt(oid64+" HEAD"+caps64) + flush)
	f.Add(start + pkt("ERR no") + flush)
	f.Add(start + "0004" + flush)
	f.Fuzz(func(t *testing.T, data string) {
		refs, err := parseAdvertisement(data)
		if err != nil {
			var malformed protocolError
			if !errors.As(err, &malformed) {
				t.Errorf("%v is no protocol error", err)
			}
			return
		}
		for name, id := range refs.refs {
			if !objectID.MatchString(id) || name == "" || strings.HasSuffix(name, peeledSuffix) {
				t.Errorf("%q is at %q", name, id)
			}
		}
		if refs.firstBranch != "" && refs.refs[refs.firstBranch] == "" {
			t.Errorf("first branch %q is not there", refs.firstBranch)
		}
		if a := refs.resolve(headRef); (a.state == empty) != (len(refs.refs) == 0) {
			t.Errorf("HEAD is %v in %v", a, refs.refs)
		}
	})
}
