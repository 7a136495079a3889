package tunnel

import (
	"strings"

	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/prototool"
)

// toKeyValues writes metadata as it travels in RequestInfo. A key or value that a stock agent would choke on is left out.
func toKeyValues(md metadata.MD) []*prototool.KeyValues {
	out := make([]*prototool.KeyValues, 0, len(md))
	for key, values := range md {
		if !legalKey(key) {
			continue
		}
		var legal []string
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") || printable(v) {
				legal = append(legal, v)
			}
		}
		if len(legal) > 0 {
			out = append(out, keyValue(key, legal...))
		}
	}
	return out
}

func keyValue(key string, values ...string) *prototool.KeyValues {
	kv := &prototool.KeyValues{Key: []byte(key), Value: &prototool.Values{}}
	for _, v := range values {
		kv.Value.Value = append(kv.Value.Value, []byte(v))
	}
	return kv
}

// fromKeyValues reads RequestInfo metadata. Entries of the same key are joined.
func fromKeyValues(kvs []*prototool.KeyValues) metadata.MD {
	md := make(metadata.MD, len(kvs))
	for _, kv := range kvs {
		key := string(kv.Key)
		if !legalKey(key) {
			continue
		}
		for _, v := range kv.GetValue().GetValue() {
			md[key] = append(md[key], string(v))
		}
	}
	return md
}

func legalKey(key string) bool {
	if key == "" {
		return false
	}
	for i := range len(key) {
		c := key[i]
		if c == ':' && i == 0 {
			continue
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func printable(v string) bool {
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return false
		}
	}
	return true
}
