package beside

import (
	"testing"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}
