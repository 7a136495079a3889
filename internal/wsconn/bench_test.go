package wsconn

import (
	"context"
	"io"
	"net"
	"net/url"
	"runtime"
	"sync"
	"testing"
)

// benchMux serves a Mux for a benchmark.
func benchMux(b *testing.B) *Mux {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	m, err := NewMux(MuxConfig{Listener: listener, WebSocket: true})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(context.Background()) }()
	b.Cleanup(func() {
		m.GRPCListener().Close()
		<-done
	})
	return m
}

func benchPair(b *testing.B, m *Mux) (client, server net.Conn) {
	b.Helper()
	client, server = openPair(b, m)
	b.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// openPair leaves the closing to its caller.
func openPair(b *testing.B, m *Mux) (client, server net.Conn) {
	b.Helper()
	client, err := (&Dialer{}).Dial(b.Context(), &url.URL{Scheme: "ws", Host: muxAddr(m), Path: "/"})
	if err != nil {
		b.Fatal(err)
	}
	server, err = m.GRPCListener().Accept()
	if err != nil {
		client.Close()
		b.Fatal(err)
	}
	return client, server
}

// BenchmarkConn_ToKas is the way of an answer: the transport writes 32 KiB at a time, and reads the 9 bytes of a frame header and then a
// frame of 16 KiB.
func BenchmarkConn_ToKas(b *testing.B) {
	client, server := benchPair(b, benchMux(b))
	message := make([]byte, 32<<10)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	written := make(chan error, 1)
	go func() {
		for range b.N {
			if _, err := client.Write(message); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	header, frame := make([]byte, 9), make([]byte, 16<<10-9)
	for range 2 * b.N {
		for _, p := range [][]byte{header, frame} {
			if _, err := io.ReadFull(server, p); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := <-written; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkConn_PingPong is a small frame there and back.
func BenchmarkConn_PingPong(b *testing.B) {
	client, server := benchPair(b, benchMux(b))
	b.ReportAllocs()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{server}, io.LimitReader(server, int64(b.N)*64), make([]byte, 64))
		done <- err
	}()
	message := make([]byte, 64)
	for range b.N {
		if _, err := client.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, message); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// idleAtOnce bounds the connections that BenchmarkConn_Idle holds open: each takes two descriptors, and a benchmark that runs
// for a time instead of a count asks for more connections than a process may have.
const idleAtOnce = 250

// BenchmarkConn_Idle is the heap of an idle connection, both ends of it, as the mean of populations of at most idleAtOnce.
func BenchmarkConn_Idle(b *testing.B) {
	m := benchMux(b)
	grown := 0.0
	for left := b.N; left > 0; left -= idleAtOnce {
		grown += idlePopulation(b, m, min(left, idleAtOnce))
	}
	b.ReportMetric(grown/1024/float64(b.N), "heap-KB/conn")
}

// idlePopulation opens n connections that stay idle, says by how many bytes the heap grew, and closes them.
func idlePopulation(b *testing.B, m *Mux, n int) float64 {
	b.Helper()
	heap := func() float64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC() // pools are emptied by the second
		runtime.ReadMemStats(&stats)
		return float64(stats.HeapAlloc)
	}
	before := heap()
	var ends []net.Conn
	var readers sync.WaitGroup
	for range n {
		client, server := openPair(b, m)
		ends = append(ends, client, server)
		readers.Go(func() { _, _ = server.Read(make([]byte, 9)) }) // until the connection is closed
	}
	grown := heap() - before
	for _, end := range ends {
		end.Close()
	}
	readers.Wait()
	return grown
}
