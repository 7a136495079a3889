package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/test/fleet"
)

// skew is how far clocks differ that nobody keeps.
const skew = 5 * time.Minute

// TestClock_OfAnotherKas_IsFiveMinutesOff: what it says to prove who it is does not count, whichever of the two is wrong.
func TestClock_OfAnotherKas_IsFiveMinutesOff(t *testing.T) {
	f := share(t)
	holds, _ := holder(t, f, demoID)
	if code := callAsKas(t, f, holds, 0); code == codes.Unauthenticated {
		t.Errorf("with the right clock: %s: this test sees nothing", code)
	}
	for name, off := range map[string]time.Duration{"ahead": skew, "behind": -skew} {
		if code := callAsKas(t, f, holds, off); code != codes.Unauthenticated {
			t.Errorf("%s: %s, want %s", name, code, codes.Unauthenticated)
		}
	}
}

// callAsKas makes a call at the private API of a kas as another one does, whose clock is off, and returns how it ends.
func callAsKas(t *testing.T, f *fleet.Fleet, k *fleet.Kas, off time.Duration) codes.Code {
	t.Helper()
	now := time.Now().Add(off)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer: "gitlab-kas", Audience: jwt.ClaimStrings{"gitlab-kas"},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-5 * time.Second)), ExpiresAt: jwt.NewNumericDate(now.Add(5 * time.Second)),
	}).SignedString(f.PrivateSecret)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:"+k.PeerLink.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(soon(t), 5*time.Second)
	defer cancel()
	// Agent 1 does not exist: a call that is let in ends with that, or waits for it.
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token, "kas-hop-routing-agent-id", "1")
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest")
	if err == nil {
		err = errors.Join(stream.CloseSend(), stream.RecvMsg(&struct{}{}))
	}
	return status.Code(err)
}
