package agentauth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestTap_BoundsStreamsPerConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: newConnection(nil)}))
		for range maxStreams {
			if _, err := Tap(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Tap(ctx, nil); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one too many: %v", err)
		}
		cancel()
		synctest.Wait()
		if n := connectionOf(ctx).streams.Load(); n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
	if _, err := Tap(t.Context(), nil); err != nil {
		t.Errorf("without a connection: %v", err)
	}
}

func TestLogProtocolError_OncePerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		log := zap.New(core)
		one := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: newConnection(nil)})
		two := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: newConnection(nil)})
		for range 100 {
			LogProtocolError(one, log, errBadBearer)
		}
		LogProtocolError(two, log, errBadBearer)
		if n := logs.Len(); n != 2 {
			t.Fatalf("%d lines, want one per connection", n)
		}
		time.Sleep(logEvery)
		LogProtocolError(one, log, errBadBearer)
		if all := logs.All(); len(all) != 3 || all[2].ContextMap()["suppressed"] != int64(99) {
			t.Errorf("%+v", all)
		}
	})
}
