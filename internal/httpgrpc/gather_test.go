package httpgrpc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
)

// writes remembers what each write had, and fails once it has had enough of them.
type writes struct {
	sizes  []int
	data   []byte
	enough int
}

func (w *writes) Write(p []byte) (int, error) {
	if w.enough > 0 && len(w.sizes) == w.enough {
		return 0, errors.New("enough")
	}
	w.sizes = append(w.sizes, len(p))
	w.data = append(w.data, p...)
	return len(p), nil
}

// lent counts the buffers that are given back.
type lent struct{ back int }

func (*lent) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (l *lent) Put(*[]byte)     { l.back++ }

// cutUp makes a payload of pieces of a pool's; the smallest piece that is counted has 1 KiB.
func cutUp(l *lent, fill byte, sizes ...int) mem.BufferSlice {
	var payload mem.BufferSlice
	for _, n := range sizes {
		b := bytes.Repeat([]byte{fill}, n)
		payload = append(payload, mem.NewBuffer(&b, l))
	}
	return payload
}

func TestGather(t *testing.T) {
	const piece = 16 << 10
	for _, tt := range []struct {
		name string
		give func(g *gather, l *lent) error
		want []int
	}{
		{"one piece is written as it is", func(g *gather, l *lent) error { return g.last(cutUp(l, 'a', 2*maxChunk)) }, []int{2 * maxChunk}},
		{"pieces of a message are one write", func(g *gather, l *lent) error { return g.last(cutUp(l, 'a', piece-20, 20)) }, []int{piece}},
		{"messages are one write", func(g *gather, l *lent) error {
			return errors.Join(g.add(cutUp(l, 'a', 5)), g.add(cutUp(l, 'b', 7)), g.last(cutUp(l, 'c', 1)))
		}, []int{13}},
		{"a full buffer is written", func(g *gather, l *lent) error {
			return errors.Join(g.add(cutUp(l, 'a', piece)), g.add(cutUp(l, 'b', piece+9)), g.flush())
		}, []int{maxChunk, 9}},
		{"nothing is left to flush", func(g *gather, l *lent) error {
			return errors.Join(g.last(cutUp(l, 'a', 3)), g.flush())
		}, []int{3}},
		{"an empty message is none", func(g *gather, _ *lent) error { return g.last(nil) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, l := &writes{}, &lent{}
			g := &gather{to: w}
			if err := tt.give(g, l); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, w.sizes); diff != "" {
				t.Error(diff)
			}
			if g.buf != nil {
				t.Error("a buffer is kept")
			}
		})
	}
}

func TestGather_KeepsTheOrder(t *testing.T) {
	w, l := &writes{}, &lent{}
	g := &gather{to: w}
	var want []byte
	sizes := []int{2000, 40000, 1500, 33000}
	for i, n := range sizes {
		fill := byte('a' + i)
		want = append(want, bytes.Repeat([]byte{fill}, n)...)
		if err := g.add(cutUp(l, fill, n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.data, want) {
		t.Error("the bytes are not those that were added")
	}
	if l.back != len(sizes) {
		t.Errorf("%d of %d messages were freed", l.back, len(sizes))
	}
}

func TestGather_Fails(t *testing.T) {
	w, l := &writes{enough: 1}, &lent{}
	g := &gather{to: w}
	if err := g.add(cutUp(l, 'a', 3*maxChunk)); err == nil {
		t.Error("the second write failed and nobody was told")
	}
	if err := g.last(cutUp(l, 'b', 2000)); err == nil {
		t.Error("the third write failed and nobody was told")
	}
	if l.back != 2 || g.buf != nil {
		t.Errorf("%d of 2 messages were freed, buffer %v", l.back, g.buf)
	}
}
