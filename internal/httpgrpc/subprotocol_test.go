package httpgrpc

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRemoveBearerSubprotocol(t *testing.T) {
	const token = "base64url.bearer.authorization.k8s.io.Y2FuYXJ5"
	for name, tt := range map[string]struct{ values, want []string }{
		"none":             {nil, nil},
		"no token":         {[]string{"v5.channel.k8s.io,v4.channel.k8s.io", "x"}, []string{"v5.channel.k8s.io,v4.channel.k8s.io", "x"}},
		"token first":      {[]string{token + ", v4.channel.k8s.io"}, []string{"v4.channel.k8s.io"}},
		"token between":    {[]string{"a," + token + ",b"}, []string{"a, b"}},
		"value of its own": {[]string{"a, b", " " + token, "c"}, []string{"a, b, c"}},
		"two tokens":       {[]string{token + "," + token, "c"}, []string{"c"}},
		"nothing else":     {[]string{token}, nil},
		"another name":     {[]string{"x." + token}, []string{"x." + token}},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tt.values != nil {
				h["Sec-Websocket-Protocol"] = tt.values
			}
			before := append([]string(nil), tt.values...)
			RemoveBearerSubprotocol(h)
			if diff := cmp.Diff(tt.want, h["Sec-Websocket-Protocol"]); diff != "" {
				t.Error(diff)
			}
			if _, there := h["Sec-Websocket-Protocol"]; there != (tt.want != nil) {
				t.Error(h)
			}
			if diff := cmp.Diff(before, append([]string(nil), tt.values...)); diff != "" {
				t.Error("shared values were changed: " + diff)
			}
		})
	}
}
