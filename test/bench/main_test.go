package main

import (
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// What is measured starts this program again as something else; in a test that is the program of the test.
	if len(os.Args) > 1 && slices.Contains([]string{fakeCommand, floorCommand}, os.Args[1]) {
		main()
		return
	}
	// It waits for a second to hand over that the connection was closed already.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}
