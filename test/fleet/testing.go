package fleet

import (
	"strings"
	"testing"
)

// StartT starts a fleet for one test and stops it afterwards. See Finish.
func StartT(t testing.TB, cfg Config) *Fleet {
	t.Helper()
	f, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Check(t)
		f.Stop()
	})
	return f
}

// Check fails t when a daemon has panicked or has a data race, and shows the ends of all logs when t has failed.
func (f *Fleet) Check(t testing.TB) {
	t.Helper()
	for name, log := range f.Logs() {
		for _, bad := range []string{"WARNING: DATA RACE", "panic:", "panic serving", "fatal error:"} {
			if i := strings.Index(log, bad); i >= 0 {
				t.Errorf("%s: %s", name, log[i:min(len(log), i+6000)])
			}
		}
	}
	if t.Failed() {
		for name, log := range f.Logs() {
			t.Logf("--- %s ---\n%s", name, log[max(0, len(log)-5000):])
		}
	}
}
