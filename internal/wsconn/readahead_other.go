//go:build !unix

package wsconn

const canWaitReadable = false

func (*readAhead) tryRead(uintptr) bool { return true }
