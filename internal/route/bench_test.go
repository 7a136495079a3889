package route

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// BenchmarkOpen compares a call of an agent that is here with one of an agent that another kas holds: one that talks back and forth, and
// one like a GET, whose request is there at once and whose answer has a head, a body and a trailer.
func BenchmarkOpen(b *testing.B) {
	f := newFleet(b)
	other, holder := f.start(time.Now()), f.start(time.Now())
	holder.agent(10, func(c context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		msg, err := s.Recv()
		if err != nil {
			return err
		}
		if string(msg.Materialize()) != "GET" {
			return errors.Join(s.Send(msg), echo(c, md, s))
		}
		if err := echo(c, md, s); err != nil {
			return err
		}
		return errors.Join(s.Send(msg), s.Send(text("body")))
	})
	f.located(1)
	for name, r := range map[string]*replica{"here": holder, "other": other} {
		for kind, once := range map[string]func() error{"talk": r.whole, "get": r.get} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := once(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// get is a call as it is made for a GET.
func (r *replica) get() error {
	call, err := r.router.Open(ctx(r.t), request())
	if err != nil {
		return err
	}
	err = errors.Join(call.Send(text("GET")), call.Send(text("trailer")), call.CloseSend())
	for received := 0; err == nil && received < 3; received++ {
		msg, recvErr := call.Recv()
		msg.Free()
		err = recvErr
	}
	call.Finish(err == nil)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
