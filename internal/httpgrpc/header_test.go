package httpgrpc_test

import (
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

func newHandlerServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func kv(key string, values ...string) *prototool.KeyValues {
	v := &prototool.Values{}
	for _, s := range values {
		v.Value = append(v.Value, []byte(s))
	}
	return &prototool.KeyValues{Key: []byte(key), Value: v}
}

func TestToKeyValues(t *testing.T) {
	got := httpgrpc.ToKeyValues(http.Header{"Via": {"b", "a"}, "accept": {"x\xffy"}, "Empty": {""}})
	want := []*prototool.KeyValues{kv("Empty", ""), kv("Via", "b", "a"), kv("Accept", "x\uFFFDy")}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if httpgrpc.ToKeyValues(nil) != nil {
		t.Error("nothing must be nothing")
	}
}

func TestFromKeyValues(t *testing.T) {
	got, err := httpgrpc.FromKeyValues([]*prototool.KeyValues{kv("via", "1"), kv("VIA", "2", "3"), {Key: []byte("None")}})
	if diff := cmp.Diff(http.Header{"Via": {"1", "2", "3"}}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range []*prototool.KeyValues{
		kv("", "v"), kv("a b", "v"), kv("a:", "v"), kv("a\r\nb", "v"), kv("\xff", "v"),
		kv("k", "a\rb"), kv("k", "a\nb"), kv("k", "a\x00b"), kv("k", "ok", "a\x7fb"), nil,
	} {
		if h, err := httpgrpc.FromKeyValues([]*prototool.KeyValues{bad}); err == nil || strings.Contains(err.Error(), "a\\rb") {
			t.Errorf("%v: %v, %v", bad, h, err)
		}
	}
}

func TestValues(t *testing.T) {
	q := url.Values{"b": {"2", "1"}, "a": {""}, "ü": {"\xff"}}
	got := httpgrpc.ValuesFromKeyValues(httpgrpc.ValuesToKeyValues(q))
	if diff := cmp.Diff(q, got); diff != "" {
		t.Error(diff)
	}
	twice := httpgrpc.ValuesFromKeyValues([]*prototool.KeyValues{kv("a", "1"), kv("a", "2")})
	if diff := cmp.Diff(url.Values{"a": {"1", "2"}}, twice); diff != "" {
		t.Error(diff)
	}
}

func TestRemoveHopByHop(t *testing.T) {
	h := http.Header{
		"Connection": {"", "close, x-private ,", "Another"}, "X-Private": {"1"}, "Another": {"2"}, "Kept": {"3"},
		"Proxy-Connection": {"x"}, "Keep-Alive": {"x"}, "Proxy-Authenticate": {"x"}, "Proxy-Authorization": {"x"},
		"Te": {"x"}, "Trailer": {"x"}, "Transfer-Encoding": {"x"}, "Upgrade": {"x"},
	}
	httpgrpc.RemoveHopByHop(h)
	if diff := cmp.Diff(http.Header{"Kept": {"3"}}, h); diff != "" {
		t.Error(diff)
	}
	httpgrpc.RestoreUpgrade(h, nil)
	httpgrpc.RestoreUpgrade(h, []string{"websocket"})
	if diff := cmp.Diff(http.Header{"Kept": {"3"}, "Upgrade": {"websocket"}, "Connection": {"upgrade"}}, h); diff != "" {
		t.Error(diff)
	}
}

func FuzzHeaderRoundTrip(f *testing.F) {
	f.Add("Accept", "a", "via", "b")
	f.Add("x", "", "X", "\xff")
	f.Add("k\r\n", "v", "k", "v\r\nx: y")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		h := http.Header{}
		for _, e := range [][2]string{{k1, v1}, {k2, v2}} {
			key := textproto.CanonicalMIMEHeaderKey(e[0])
			h[key] = append(h[key], e[1])
		}
		wire := httpgrpc.ToKeyValues(h)
		valid, text := true, true
		for key, values := range h {
			text = text && utf8.ValidString(key)
			valid = valid && httpguts.ValidHeaderFieldName(key)
			for _, v := range values {
				text = text && utf8.ValidString(v)
				valid = valid && httpguts.ValidHeaderFieldValue(v)
			}
		}
		for _, e := range wire {
			if !utf8.Valid(e.GetKey()) {
				t.Fatalf("key %q", e.GetKey())
			}
			for _, v := range e.GetValue().GetValue() {
				if !utf8.Valid(v) {
					t.Fatalf("value %q", v)
				}
			}
		}
		got, err := httpgrpc.FromKeyValues(wire)
		if valid != (err == nil) && text {
			t.Fatalf("%v: %v", h, err)
		}
		if valid && text {
			if diff := cmp.Diff(h, got); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func FuzzRemoveHopByHop(f *testing.F) {
	f.Add("", "Upgrade, X", "X")
	f.Add("keep-alive", ",,x-y,", "x-Y")
	f.Fuzz(func(t *testing.T, first, second, name string) {
		h := http.Header{"Connection": {first, second}}
		h.Set(name, "v")
		h.Set("Kept-For-Sure", "v")
		tokens := httpgrpc.ConnectionTokens(h)
		httpgrpc.RemoveHopByHop(h)
		for _, gone := range append(tokens, "Connection", "Upgrade", "Te", "Transfer-Encoding") {
			if h.Get(gone) != "" {
				t.Fatalf("%q is still there: %v", gone, h)
			}
		}
		for _, token := range tokens {
			if token == "Kept-For-Sure" {
				return
			}
		}
		if h.Get("Kept-For-Sure") == "" {
			t.Fatal("too much was removed")
		}
	})
}
