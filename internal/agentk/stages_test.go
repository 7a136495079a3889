package agentk

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunStages_StopInReverse(t *testing.T) {
	var mu sync.Mutex
	var stopped []string
	wait := func(name string) part {
		return part{name, func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			stopped = append(stopped, name)
			return nil
		}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runStages(ctx, stage{wait("a")}, stage{wait("b")}, stage{wait("c")}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"c", "b", "a"}, stopped); diff != "" {
		t.Error(diff)
	}
}

func TestRunStages_PartEnds(t *testing.T) {
	for name, err := range map[string]error{"broken": errors.New("broken"), "ended too early": nil} {
		got := runStages(t.Context(),
			stage{{"a", func(ctx context.Context) error { <-ctx.Done(); return nil }}},
			stage{{"b", func(context.Context) error { return err }}})
		if got == nil || !strings.Contains(got.Error(), "b: "+name) {
			t.Error(got)
		}
	}
}
