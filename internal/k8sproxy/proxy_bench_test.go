package k8sproxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
	"gitlab.com/agentk/agentk/internal/route"
)

// canned is a call whose answer is there already.
type canned struct{ frames [][]byte }

func (*canned) Send(msg mem.BufferSlice) error { msg.Free(); return nil }
func (*canned) CloseSend() error               { return nil }
func (*canned) Finish(bool)                    {}

func (c *canned) Recv() (mem.BufferSlice, error) {
	if len(c.frames) == 0 {
		return nil, io.EOF
	}
	msg := mem.BufferSlice{mem.SliceBuffer(c.frames[0])}
	c.frames = c.frames[1:]
	return msg, nil
}

// cannedOpener opens the same call for every request.
type cannedOpener [][]byte

func (o cannedOpener) Open(context.Context, route.Request) (route.Call, error) {
	return &canned{o}, nil
}

// A small GET of a job that is known already: what the proxy itself costs, its log line included.
func BenchmarkSmallGet(b *testing.B) {
	head, err := proto.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: httpgrpc.ToKeyValues(http.Header{
			"Audit-Id": {"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, "Content-Type": {"application/json"}, "Content-Length": {"512"},
			"Date": {"Mon, 02 Jan 2006 15:04:05 GMT"},
		})},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	data := frame.Wrap(frame.HTTPData, mem.BufferSlice{mem.SliceBuffer(make([]byte, 512))}).Materialize()
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(io.Discard), zap.InfoLevel))
	p, err := k8sproxy.New(k8sproxy.Config{
		Log: log, Registerer: prometheus.NewRegistry(), URLPathPrefix: "/", AllowedAgentCacheTTL: time.Hour,
		Opener: cannedOpener{head, data, frame.Empty(frame.HTTPTrailer).Materialize()},
		Jobs: &jobs{answer: func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
			return allowed(&agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_CiJob{CiJob: &agentcfg.CiAccessAsCiJobCF{}}}), nil
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/version", nil)
		r.Header = http.Header{
			"Accept": {"application/json, */*"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"kubectl/v1.34.0"}, "Authorization": {ciBearer},
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}
