package httpgrpc_test

import (
	"testing"

	"go.uber.org/goleak"
)

// net/http lingers for half a second on a connection that it closes for a rest of a body.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
