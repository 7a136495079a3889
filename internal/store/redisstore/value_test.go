package redisstore

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestValue_RoundTrip(t *testing.T) {
	end := time.UnixMilli(1_800_000_000_123)
	for _, payload := range [][]byte{nil, []byte("x")} {
		expiry, got, ok := decode(encode(end, payload))
		if !ok || !expiry.Equal(end) || !bytes.Equal(got, payload) {
			t.Errorf("got %v %q %t", expiry, got, ok)
		}
	}
}

func TestValue_OtherVersions(t *testing.T) {
	end := time.UnixMilli(1_800_000_000_000)
	later := protowire.AppendTag(encode(end, []byte("x")), 9, protowire.Fixed64Type)
	later = protowire.AppendFixed64(later, 1)
	if expiry, got, ok := decode(later); !ok || !expiry.Equal(end) || string(got) != "x" {
		t.Errorf("unknown field: %v %q %t", expiry, got, ok)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "cut": encode(end, []byte("xyz"))[:8], "no end": encode(end, []byte("xyz"))[7:],
	} {
		if _, _, ok := decode(b); ok {
			t.Errorf("%s was readable", name)
		}
	}
}

func FuzzValue(f *testing.F) {
	f.Add(encode(time.UnixMilli(1), []byte("x")))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		expiry, payload, ok := decode(b)
		if !ok {
			return
		}
		if e, p, ok := decode(encode(expiry, payload)); !ok || !e.Equal(expiry) || !bytes.Equal(p, payload) {
			t.Errorf("%x became %v %x %t", b, e, p, ok)
		}
		parseConnection(b, time.UnixMilli(0))
		parseEvent(string(b))
	})
}
