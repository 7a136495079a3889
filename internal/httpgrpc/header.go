package httpgrpc

import (
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"gitlab.com/agentk/agentk/api/prototool"
)

// An agent that understands HeaderExtra.escaped_path announces this service and method in its tunnel descriptor. Nobody calls
// it: it is a name for a promise.
const (
	ExtEncodedPathService = "agentk.extensions.KubernetesApi"
	ExtEncodedPathMethod  = "EncodedPath"
	ExtEncodedPath        = ExtEncodedPathService + "/" + ExtEncodedPathMethod
)

const (
	headerConnection = "Connection"
	headerUpgrade    = "Upgrade"
)

// hopByHop are the headers that speak about one connection only, in canonical form.
var hopByHop = [...]string{
	headerConnection, "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
	"Transfer-Encoding", headerUpgrade,
}

// ToKeyValues maps an HTTP header to the wire, sorted by key. Keys become canonical; what is not valid UTF-8 is replaced, since
// older peers declare keys and values as strings and would end the call.
func ToKeyValues(h http.Header) []*prototool.KeyValues { return toKeyValues(h, true) }

// ValuesToKeyValues maps a decoded query to the wire, sorted by key. Keys and values are sent as they are: the caller refuses
// what is not valid UTF-8, because a replacement would change the meaning of the request.
func ValuesToKeyValues(q url.Values) []*prototool.KeyValues { return toKeyValues(q, false) }

func toKeyValues(m map[string][]string, header bool) []*prototool.KeyValues {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]*prototool.KeyValues, 0, len(keys))
	for _, k := range keys {
		values := make([][]byte, 0, len(m[k]))
		for _, v := range m[k] {
			if header {
				v = strings.ToValidUTF8(v, "\uFFFD")
			}
			values = append(values, []byte(v))
		}
		if header {
			k = textproto.CanonicalMIMEHeaderKey(strings.ToValidUTF8(k, "\uFFFD"))
		}
		out = append(out, &prototool.KeyValues{Key: []byte(k), Value: &prototool.Values{Value: values}})
	}
	return out
}

// FromKeyValues maps a header from the wire. The values of a key that comes twice, also in another spelling, are appended. A
// name that is no HTTP token and a value with CR, LF, NUL or another control character fail the whole header: they would let
// a peer write headers of its own choice. The error names the key, never the value.
func FromKeyValues(kv []*prototool.KeyValues) (http.Header, error) {
	h := make(http.Header, len(kv))
	for _, e := range kv {
		key := string(e.GetKey())
		if !httpguts.ValidHeaderFieldName(key) {
			return nil, fmt.Errorf("invalid header name %q", shorten(key))
		}
		key = textproto.CanonicalMIMEHeaderKey(key)
		for _, b := range e.GetValue().GetValue() {
			v := string(b)
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, fmt.Errorf("invalid value of header %q", key)
			}
			h[key] = append(h[key], v)
		}
	}
	return h, nil
}

// ValuesFromKeyValues maps a query from the wire. The values of a key that comes twice are appended.
func ValuesFromKeyValues(kv []*prototool.KeyValues) url.Values {
	q := make(url.Values, len(kv))
	for _, e := range kv {
		key := string(e.GetKey())
		for _, v := range e.GetValue().GetValue() {
			q[key] = append(q[key], string(v))
		}
	}
	return q
}

// RemoveHopByHop removes the headers that end at this hop: the fixed set and every name listed in any Connection value. What
// has to survive (an Upgrade) is put back with RestoreUpgrade.
func RemoveHopByHop(h http.Header) {
	for _, name := range ConnectionTokens(h) {
		h.Del(name)
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// ConnectionTokens returns the names listed in the Connection headers, in canonical form. Every value counts, also behind an
// empty first one.
func ConnectionTokens(h http.Header) []string {
	var names []string
	for _, value := range h[headerConnection] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				names = append(names, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	return names
}

// UpgradeOf returns the values of the Upgrade header; an exchange is an upgrade if there is at least one.
func UpgradeOf(h http.Header) []string { return h[headerUpgrade] }

// RestoreUpgrade puts an Upgrade back after RemoveHopByHop; Connection becomes exactly "upgrade". Without values it does
// nothing.
func RestoreUpgrade(h http.Header, upgrade []string) {
	if len(upgrade) == 0 {
		return
	}
	h[headerUpgrade] = upgrade
	h[headerConnection] = []string{"upgrade"}
}

// shorten keeps error texts readable when a peer sends a huge name.
func shorten(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
