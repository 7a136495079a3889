package agent

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"v18.11.0", "v18.11.3", 0},
		{"v18.11.0", "18.9.0", 2},
		{"v18.9.0-rc1", "v18.11.0", 2},
		{"v17.11.0", "v18.0.0", far},
		{"", "v18.11.0", 0},
		{"v18", "v18.11.0", 0},
		{"x.y.z", "v18.11.0", 0},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
