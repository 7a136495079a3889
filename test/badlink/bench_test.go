package badlink

import (
	"io"
	"net"
	"testing"
	"time"
)

// BenchmarkLink carries bulk, in writes as large as those of the gRPC transport.
func BenchmarkLink(b *testing.B) {
	for name, conditions := range map[string]Conditions{"perfect": {}, "RTT 50 ms": {RTT: 50 * time.Millisecond}} {
		b.Run(name, func(b *testing.B) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			l, err := Listen(Config{Dial: To(listener.Addr().String())})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if err := l.Set(conditions); err != nil {
				b.Fatal(err)
			}
			from, err := net.Dial("tcp", l.Addr())
			if err != nil {
				b.Fatal(err)
			}
			defer from.Close()
			to, err := listener.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer to.Close()
			data := make([]byte, 32<<10)
			sent := make(chan error, 1)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				var err error
				for i := 0; i < b.N && err == nil; i++ {
					_, err = from.Write(data)
				}
				sent <- err
			}()
			if _, err := io.CopyN(io.Discard, to, int64(b.N)*int64(len(data))); err != nil {
				b.Fatal(err)
			}
			if err := <-sent; err != nil {
				b.Fatal(err)
			}
		})
	}
}
