package stdio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/engine"
)

func TestReader_ReadsWhatWriterWrote(t *testing.T) {
	var pipe bytes.Buffer
	w := NewWriter(&pipe)
	want := []*engine.ToEngine{
		{Message: &engine.ToEngine_File{File: &engine.File{Worker: "a", Path: "x.yaml", Data: bytes.Repeat([]byte("x"), 300<<10)}}},
		{Message: &engine.ToEngine_Run{Run: &engine.Run{Worker: "a"}}},
		{},
	}
	for _, m := range want {
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&pipe)
	got := &engine.ToEngine{}
	for i, m := range want {
		if err := r.Read(got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, m) {
			t.Errorf("message %d is not what was written", i)
		}
	}
	if err := r.Read(got); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v, want EOF", err)
	}
}

func TestReader_RefusesWhatIsNoMessage(t *testing.T) {
	long := binary.BigEndian.AppendUint32(nil, MaxMessage+1)
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"too long":      {long, ErrTooLarge},
		"cut in length": {[]byte{0, 0}, io.ErrUnexpectedEOF},
		"cut in body":   {[]byte{0, 0, 0, 9, 1, 2}, io.ErrUnexpectedEOF},
		"no protobuf":   {[]byte{0, 0, 0, 1, 0xff}, nil},
	} {
		err := NewReader(bytes.NewReader(c.data)).Read(&engine.ToEngine{})
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := &engine.ToEngine{Message: &engine.ToEngine_File{File: &engine.File{Data: make([]byte, MaxMessage)}}}
	if err := NewWriter(io.Discard).Write(huge); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a message above the limit was sent: %v", err)
	}
}
