package tunnel

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
)

// What is written by hand is what the generated code reads.
func TestRequestInfo(t *testing.T) {
	for name, tc := range map[string]struct {
		meta metadata.MD
		want metadata.MD
	}{
		"none":  {nil, metadata.MD{}},
		"usual": {metadata.MD{"traceparent": {"00-1-2-00"}, "user-agent": {"kas"}}, metadata.MD{"traceparent": {"00-1-2-00"}, "user-agent": {"kas"}}},
		"illegal": {
			metadata.MD{"Upper": {"x"}, "": {"x"}, "a": {"ok", "new\nline"}, "b": {"\x00"}, "c-bin": {"\x00"}, "d": nil, "e": {""}},
			metadata.MD{"a": {"ok"}, "c-bin": {"\x00"}, "e": {""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := &reversetunnel.ConnectResponse{}
			if err := frame.Unmarshal(requestInfo("/s/m", tc.meta, 12), got); err != nil {
				t.Fatal(err)
			}
			tc.want[MetaWaiting], tc.want[MetaAgain] = []string{"12"}, []string{again}
			if info := got.GetRequestInfo(); info.GetMethodName() != "/s/m" {
				t.Errorf("method %q", info.GetMethodName())
			} else if diff := cmp.Diff(tc.want, fromKeyValues(info.Meta)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func BenchmarkRequestInfo(b *testing.B) {
	meta := metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "user-agent", "kas/v1")
	b.ReportAllocs()
	for b.Loop() {
		requestInfo("/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest", meta, 0).Free()
	}
}
