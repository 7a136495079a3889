// Package api_test holds the wire: bytes written out by hand, field by field, and what they must mean. Nothing here is built
// with the generated code that is under test.
package api_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kas"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/api/reversetunnel/info"
)

// golden turns annotated hexadecimal into bytes: white space separates, quoted text stands for its own bytes.
func golden(t *testing.T, text string) []byte {
	t.Helper()
	var out []byte
	for i, part := range strings.Split(text, `"`) {
		if i%2 == 1 {
			out = append(out, part...)
			continue
		}
		raw, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatalf("golden bytes %q: %v", part, err)
		}
		out = append(out, raw...)
	}
	return out
}

func kv(key string, values ...string) *prototool.KeyValues {
	out := &prototool.KeyValues{Key: []byte(key), Value: &prototool.Values{}}
	for _, v := range values {
		out.Value.Value = append(out.Value.Value, []byte(v))
	}
	return out
}

func impersonation(t *testing.T) *anypb.Any {
	t.Helper()
	return &anypb.Any{
		TypeUrl: "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra",
		Value:   golden(t, `0a 06 0a 01 "u" 12 01 "g"`),
	}
}

func TestGoldenFrames(t *testing.T) {
	tests := []struct {
		name string
		raw  string
		want proto.Message
	}{
		{
			"ConnectRequest descriptor",
			`0a 12  0a 10  0a 0e  0a 03 "s.S"  12 03 0a 01 "M"  12 02 0a 00`,
			&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Descriptor_{Descriptor_: &reversetunnel.Descriptor{
				AgentDescriptor: &info.AgentDescriptor{Services: []*info.Service{{Name: "s.S", Methods: []*info.Method{{Name: "M"}, {}}}}},
			}}},
		},
		{
			"ConnectRequest header",
			`12 0c  0a 0a  0a 01 "k"  12 05 0a 03 "val"`,
			&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Header{Header: &reversetunnel.Header{
				Meta: []*prototool.KeyValues{kv("k", "val")},
			}}},
		},
		{
			"ConnectRequest message",
			`1a 04  0a 02 "hi"`,
			&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Message{Message: &reversetunnel.Message{Data: []byte("hi")}}},
		},
		{
			"ConnectRequest trailer",
			`22 00`,
			&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Trailer{Trailer: &reversetunnel.Trailer{}}},
		},
		{
			"ConnectRequest error",
			`2a 09  0a 07  08 0e  12 03 "bad"`,
			&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Error{Error: &reversetunnel.Error{
				Status: &spb.Status{Code: 14, Message: "bad"},
			}}},
		},
		{
			"ConnectResponse request info",
			`0a 11  0a 04 "/s/M"  12 09  0a 01 "a"  12 04 0a 02 "bc"`,
			&reversetunnel.ConnectResponse{Msg: &reversetunnel.ConnectResponse_RequestInfo{RequestInfo: &reversetunnel.RequestInfo{
				MethodName: "/s/M", Meta: []*prototool.KeyValues{kv("a", "bc")},
			}}},
		},
		{
			"ConnectResponse message", `12 03  0a 01 "x"`,
			&reversetunnel.ConnectResponse{Msg: &reversetunnel.ConnectResponse_Message{Message: &reversetunnel.Message{Data: []byte("x")}}},
		},
		{
			"ConnectResponse close send", `1a 00`,
			&reversetunnel.ConnectResponse{Msg: &reversetunnel.ConnectResponse_CloseSend{CloseSend: &reversetunnel.CloseSend{}}},
		},
		{
			"GatewayKasResponse tunnel ready", `0a 00`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_TunnelReady_{TunnelReady: &kas.GatewayKasResponse_TunnelReady{}}},
		},
		{
			"GatewayKasResponse header", `12 0c  0a 0a  0a 01 "k"  12 05 0a 03 "val"`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_Header_{Header: &kas.GatewayKasResponse_Header{
				Meta: []*prototool.KeyValues{kv("k", "val")},
			}}},
		},
		{
			"GatewayKasResponse message", `1a 04  0a 02 "hi"`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_Message_{Message: &kas.GatewayKasResponse_Message{Data: []byte("hi")}}},
		},
		{
			"GatewayKasResponse trailer", `22 00`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_Trailer_{Trailer: &kas.GatewayKasResponse_Trailer{}}},
		},
		{
			"GatewayKasResponse error", `2a 09  0a 07  08 0e  12 03 "bad"`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_Error_{Error: &kas.GatewayKasResponse_Error{
				Status: &spb.Status{Code: 14, Message: "bad"},
			}}},
		},
		{
			"GatewayKasResponse no tunnel", `32 00`,
			&kas.GatewayKasResponse{Msg: &kas.GatewayKasResponse_NoTunnel_{NoTunnel: &kas.GatewayKasResponse_NoTunnel{}}},
		},
		{"StartStreaming", ``, &kas.StartStreaming{}},
		{
			"HttpRequest data", `12 05  0a 03 "abc"`,
			&grpctool.HttpRequest{Message: &grpctool.HttpRequest_Data_{Data: &grpctool.HttpRequest_Data{Data: []byte("abc")}}},
		},
		{
			"HttpRequest trailer", `1a 00`,
			&grpctool.HttpRequest{Message: &grpctool.HttpRequest_Trailer_{Trailer: &grpctool.HttpRequest_Trailer{}}},
		},
		{
			"HttpRequest upgrade data", `22 03  0a 01 00`,
			&grpctool.HttpRequest{Message: &grpctool.HttpRequest_UpgradeData_{UpgradeData: &grpctool.HttpRequest_UpgradeData{Data: []byte{0}}}},
		},
		{
			"HttpResponse header",
			`0a 18  0a 16  08 c8 01  12 06 "200 OK"  1a 09  0a 01 "A"  12 04 0a 02 "bc"`,
			&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
				Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: []*prototool.KeyValues{kv("A", "bc")}},
			}}},
		},
		{
			"HttpResponse data", `12 05  0a 03 "abc"`,
			&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("abc")}}},
		},
		{
			"HttpResponse trailer", `1a 00`,
			&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Trailer_{Trailer: &grpctool.HttpResponse_Trailer{}}},
		},
		{
			"HttpResponse upgrade data", `22 05  0a 03 "abc"`,
			&grpctool.HttpResponse{Message: &grpctool.HttpResponse_UpgradeData_{UpgradeData: &grpctool.HttpResponse_UpgradeData{Data: []byte("abc")}}},
		},
		{
			"ConfigurationRequest",
			`0a 02 "c1"  12 10  0a 02 "v1"  12 01 "c"  1a 02 "ns"  22 03 "pod"  18 01`,
			&agentconfiguration.ConfigurationRequest{
				CommitId:     "c1",
				AgentMeta:    &entity.AgentMeta{Version: "v1", CommitId: "c", PodNamespace: "ns", PodName: "pod"},
				SkipRegister: true,
			},
		},
		{
			"RegisterRequest",
			`0a 0b  2a 09  0a 01 "1"  12 00 1a 02 "v1"  10 ff ff ff ff ff ff ff ff 7f`,
			&agentregistrar.RegisterRequest{
				AgentMeta: &entity.AgentMeta{KubernetesVersion: &entity.KubernetesVersion{Major: "1", GitVersion: "v1"}},
				PodId:     1<<63 - 1,
			},
		},
		{
			"HeaderExtra", `0a 15  0a 01 "u"  12 01 "a"  12 01 "b"  1a 01 "i"  22 07  0a 01 "k"  12 02 "v1"`,
			&kubernetesapi.HeaderExtra{ImpConfig: &kubernetesapi.ImpersonationConfig{
				Username: "u", Groups: []string{"a", "b"}, Uid: "i", Extra: []*kubernetesapi.ExtraKeyVal{{Key: "k", Val: []string{"v1"}}},
			}},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			raw := golden(t, tc.raw)
			got := tc.want.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(raw, got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

// TestGoldenRequestHeader decodes the richest frame, and encodes it again to the same bytes.
func TestGoldenRequestHeader(t *testing.T) {
	extra := golden(t, `0a 3f "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra" 12 08 0a 06 0a 01 "u" 12 01 "g"`)
	request := golden(t, `0a 03 "GET"  12 08 0a 01 "A" 12 03 0a 01 "b"  1a 02 "/p"  22 08 0a 01 "q" 12 03 0a 01 "1"`)
	var header []byte
	header = append(protowire.AppendVarint(append(header, 0x0a), uint64(len(request))), request...)
	header = append(protowire.AppendVarint(append(header, 0x12), uint64(len(extra))), extra...)
	header = append(header, 0x18, 0x00)
	raw := append(protowire.AppendVarint([]byte{0x0a}, uint64(len(header))), header...)

	contentLength := int64(0)
	want := &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{
			Method: "GET", Header: []*prototool.KeyValues{kv("A", "b")}, UrlPath: "/p", Query: []*prototool.KeyValues{kv("q", "1")},
		},
		Extra:         impersonation(t),
		ContentLength: &contentLength,
	}}}
	got := &grpctool.HttpRequest{}
	if err := proto.Unmarshal(raw, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	again, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, raw) {
		t.Errorf("encoded\n%x, want\n%x", again, raw)
	}
}

// TestMapEncodings reads what a peer with map<string, Values> fields may send: an entry's members in either order, an empty
// value left out, a key twice, and bytes that are not UTF-8.
func TestMapEncodings(t *testing.T) {
	raw := golden(t, `1a 08  0a 01 "A" 12 03 0a 01 "1"   1a 08  12 03 0a 01 "2" 0a 01 "A"   1a 03 0a 01 "B"   1a 08 0a 01 "C" 12 03 0a 01 ff`)
	got := &prototool.HttpResponse{}
	if err := proto.Unmarshal(raw, got); err != nil {
		t.Fatal(err)
	}
	want := []*prototool.KeyValues{kv("A", "1"), kv("A", "2"), {Key: []byte("B")}, kv("C", "\xff")}
	if diff := cmp.Diff(want, got.Header, protocmp.Transform()); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
}
