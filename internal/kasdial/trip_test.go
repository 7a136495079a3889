package kasdial

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
)

func TestClient_RoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMonitor(Config{}, urlOf(t))
		c := &Client{monitor: m}
		call := func(took time.Duration, result error) {
			t.Helper()
			err := m.timeUnary(t.Context(), "/s/m", nil, nil, nil,
				func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
					time.Sleep(took)
					return result
				})
			if !errors.Is(err, result) {
				t.Error(err)
			}
		}
		for _, step := range []struct {
			name string
			do   func()
			want time.Duration
		}{
			{"no call yet", func() {}, 0},
			{"the first call", func() { call(50*time.Millisecond, nil) }, 50 * time.Millisecond},
			{"a shorter one", func() { call(20*time.Millisecond, nil) }, 20 * time.Millisecond},
			{"a longer one", func() { call(time.Second, nil) }, 20 * time.Millisecond},
			{"one that failed says nothing of kas", func() { call(time.Millisecond, errors.New("refused")) }, 20 * time.Millisecond},
			{"a new connection", func() { m.established(&watchedConn{}) }, 0},
		} {
			step.do()
			if got := c.RoundTrip(); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
	})
}
