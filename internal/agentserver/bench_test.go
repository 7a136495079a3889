package agentserver

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"gitlab.com/agentk/agentk/internal/frame"
)

// BenchmarkStream is an answer on its way to kas: one stream, messages of 32 KiB, with the options of an agent.
func BenchmarkStream(b *testing.B) {
	for name, webSocket := range map[string]bool{"ws": true, "grpc": false} {
		b.Run(name, func(b *testing.B) {
			f := start(b, nil)
			conn := f.client(b, webSocket, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{})),
				grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow))
			stream, err := conn.NewStream(withToken(b.Context()), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Agents/Sink")
			if err != nil {
				b.Fatal(err)
			}
			message := make([]byte, 32<<10)
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				if err := stream.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer(message)}}); err != nil {
					b.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				b.Fatal(err)
			}
			if err := stream.RecvMsg(&frame.Raw{}); !errors.Is(err, io.EOF) {
				b.Fatal(err)
			}
		})
	}
}
