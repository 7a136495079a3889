package chaos

import (
	"testing"

	"gitlab.com/agentk/agentk/test/fleet"
	"gitlab.com/agentk/agentk/test/line"
)

func TestIPv6Only_EverybodyFindsEverybody(t *testing.T) {
	for _, scheme := range []string{line.WSS, line.GRPCS} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			f := start(t, fleet.Config{ControlPlane: cluster, Host: "::1", Scheme: scheme})
			_, other := holder(t, f, demoID)
			for _, base := range []string{front(f), via(other)} {
				if err := ok(ask(soon(t), f, base, demo, word)); err != nil {
					t.Errorf("%s: %v", base, err)
				}
			}
		})
	}
}
