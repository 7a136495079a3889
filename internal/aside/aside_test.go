package aside

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDo(t *testing.T) {
	ran, want := false, errors.New("no")
	if err := Do(func() error { ran = true; return want }); !errors.Is(err, want) || !ran {
		t.Errorf("%v, ran: %t", err, ran)
	}
	if err := Do(func() error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestDo_Panics(t *testing.T) {
	for name, work := range map[string]func() error{
		"TestDo_Panics":              func() error { panic("broken") },
		"the work ended":             func() error { runtime.Goexit(); return nil },
		"runtime error: index out o": func() error { var none []int; _ = none[len(none)]; return nil },
	} {
		func() {
			defer func() {
				if text, _ := recover().(string); !strings.Contains(text, name) {
					t.Errorf("%s: recovered %q", name, text)
				}
			}()
			_ = Do(work)
			t.Errorf("%s: Do returned", name)
		}()
	}
}
