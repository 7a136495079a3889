package route

import (
	"testing"
	"time"
)

// BenchmarkOpen compares a call of an agent that is here with one of an agent that another kas holds.
func BenchmarkOpen(b *testing.B) {
	f := newFleet(b)
	other, holder := f.start(time.Now()), f.start(time.Now())
	holder.agent(10, echo)
	f.located(1)
	for name, r := range map[string]*replica{"here": holder, "other": other} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := r.whole(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
