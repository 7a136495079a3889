package agentauth

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestBearer(t *testing.T) {
	const absent, garbled = "Request unauthenticated with bearer", "Bad authorization string"
	tests := map[string]struct {
		values []string
		token  string
		err    string
	}{
		"absent":         {nil, "", absent},
		"basic":          {[]string{"Basic abc"}, "", absent},
		"no space":       {[]string{"Bearerabc"}, "", garbled},
		"empty":          {[]string{""}, "", garbled},
		"scheme only":    {[]string{"Bearer"}, "", garbled},
		"empty token":    {[]string{"Bearer "}, "", ""},
		"token":          {[]string{"Bearer abc"}, "abc", ""},
		"lower case":     {[]string{"bearer abc"}, "abc", ""},
		"odd case":       {[]string{"bEaReR abc"}, "abc", ""},
		"spaces":         {[]string{"Bearer a b  c "}, "a b  c ", ""},
		"first of two":   {[]string{"Bearer abc", "Bearer def"}, "abc", ""},
		"leading space":  {[]string{" Bearer abc"}, "", absent},
		"tab, not space": {[]string{"Bearer\tabc"}, "", garbled},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": test.values})
			token, err := bearer(ctx)
			if token != test.token {
				t.Errorf("token %q, want %q", token, test.token)
			}
			if (err == nil) != (test.err == "") {
				t.Fatalf("error %v", err)
			}
			if err != nil && (status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != test.err) {
				t.Errorf("error %v, want Unauthenticated %q", err, test.err)
			}
		})
	}
}

func TestInterceptors_TokenReachesTheHandler(t *testing.T) {
	a := newAuth(t, newAgents(), nil)
	conn := connect(t, serve(t, a, handlers{unary: func(ctx context.Context, _ string) (string, error) {
		agent, err := a.Agent(ctx)
		if err != nil {
			return "", err
		}
		if agent.ID != 1 {
			t.Errorf("agent %d", agent.ID)
		}
		return TokenFromContext(ctx), nil
	}}))
	if got, err := call(t, conn, "", "Bearer good"); err != nil || got != "good" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := call(t, conn, "", "Bearer bad"); status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "unauthenticated" {
		t.Errorf("unknown token: %v", err)
	}
	if _, err := call(t, conn, ""); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no token: %v", err)
	}
	if TokenFromContext(t.Context()) != "" {
		t.Error("a token outside of an RPC")
	}
	if _, err := a.Agent(t.Context()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("agent outside of an RPC: %v", err)
	}
}

func TestInterceptors_UnknownMethods(t *testing.T) {
	conn := connect(t, serve(t, newAuth(t, newAgents(), nil), handlers{unary: echo}))
	for _, method := range []string{"/" + service + "/Other", "/other.Service/Unary", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
		err := conn.Invoke(t.Context(), method, wrapperspb.String(""), &wrapperspb.StringValue{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestInterceptors_Validation(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	a := newAuth(t, newAgents(), func(cfg *Config) {
		cfg.Log = zap.New(core)
		cfg.Validate = func(m proto.Message) error {
			if m.(*wrapperspb.StringValue).GetValue() == "bad" {
				return errors.New("value must be good")
			}
			return nil
		}
	})
	conn := connect(t, serve(t, a, handlers{unary: echo, stream: func(s grpc.ServerStream) error {
		for {
			if err := s.RecvMsg(&wrapperspb.StringValue{}); err != nil {
				return err
			}
		}
	}}))
	want := func(err error) {
		t.Helper()
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "value must be good") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := call(t, conn, "good", "Bearer good"); err != nil {
		t.Error(err)
	}
	for range 5 {
		_, err := call(t, conn, "bad", "Bearer good")
		want(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer good")
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+service+"/Stream")
	if err != nil {
		t.Fatal(err)
	}
	for _, say := range []string{"good", "bad"} {
		if err := stream.SendMsg(wrapperspb.String(say)); err != nil {
			t.Fatal(err)
		}
	}
	want(stream.RecvMsg(&wrapperspb.StringValue{}))
	if n := logs.FilterMessage("Agent broke the protocol").Len(); n != 1 {
		t.Errorf("%d log lines for one connection in a minute, want 1", n)
	}
}

func TestInterceptors_Panic(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	registry := prometheus.NewRegistry()
	a := newAuth(t, newAgents(), func(cfg *Config) { cfg.Log, cfg.Registerer = zap.New(core), registry })
	conn := connect(t, serve(t, a, handlers{
		unary:  func(context.Context, string) (string, error) { panic("oh no") },
		stream: func(grpc.ServerStream) error { panic("oh no") },
	}))
	wantInternal := func(err error) {
		t.Helper()
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "oh no") {
			t.Errorf("got %v", err)
		}
	}
	_, err := call(t, conn, "", "Bearer good")
	wantInternal(err)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer good")
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+service+"/Stream")
	if err != nil {
		t.Fatal(err)
	}
	wantInternal(stream.RecvMsg(&wrapperspb.StringValue{}))
	if logs.Len() != 2 || testutil.ToFloat64(a.panics) != 2 {
		t.Errorf("%d log lines, counter %v", logs.Len(), testutil.ToFloat64(a.panics))
	}
}

func TestNew_Bad(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no backend: no error")
	}
	registry := prometheus.NewRegistry()
	for i, wantErr := range []bool{false, true} {
		if _, err := New(Config{Backend: newAgents(), Registerer: registry}); (err != nil) != wantErr {
			t.Errorf("registration %d: %v", i, err)
		}
	}
}
