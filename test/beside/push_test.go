package beside

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
)

// A second is promised from the notification to the agent; kas looks by itself every five minutes only.
func TestPush_Notified_IsLiveWithinASecond(t *testing.T) {
	t.Parallel()
	b := start(t, "push-notified", options{})
	for range 3 {
		pushed := time.Now()
		b.awaitApplied(b.push())
		took := time.Since(pushed)
		t.Logf("live after %s", took)
		if took > prompt {
			t.Errorf("live after %s", took)
		}
	}
}

func TestPush_NotNotified_IsLiveWithinThePollPeriod(t *testing.T) {
	t.Parallel()
	b := start(t, "push-polled", options{agent: "configuration: {poll_period: 1s}"})
	b.gl.Change(func(s *gitlab.Settings) { s.NoPushNotification = true })
	for range 3 {
		pushed := time.Now()
		b.awaitApplied(b.push())
		took := time.Since(pushed)
		t.Logf("live after %s", took)
		if took > prompt {
			t.Errorf("live after %s, asked every second", took)
		}
	}
}
