package cli

import (
	"testing"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/fakeengine"
)

func TestMain(m *testing.M) {
	fakeengine.Main()
	goleak.VerifyTestMain(m)
}
