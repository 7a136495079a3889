package plain

import (
	"io"
	"math"
	"net/http"
	"syscall"
	"testing"
)

// BenchmarkGet is a small GET in the way of this package and in that of net/http. The server is in the same process, but does little.
func BenchmarkGet(b *testing.B) {
	s := serve(b, answer(math.MaxInt, ok))
	pool := New(s.config())
	transport := &http.Transport{TLSClientConfig: s.config().TLS, DisableCompression: true}
	b.Cleanup(pool.Close)
	b.Cleanup(transport.CloseIdleConnections)
	for name, way := range map[string]http.RoundTripper{"plain": pool, "transport": transport} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuMicroseconds(b)
			for b.Loop() {
				req, err := http.NewRequest(http.MethodGet, s.url.String()+"/api", http.NoBody)
				if err != nil {
					b.Fatal(err)
				}
				resp, err := way.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			b.ReportMetric((cpuMicroseconds(b)-before)/float64(b.N), "cpu-us/op")
		})
	}
}

// cpuMicroseconds is what the process has used.
func cpuMicroseconds(b *testing.B) float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1000
}
