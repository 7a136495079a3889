// Package badlink is a bad network between any two processes, in user space: a TCP proxy that a test makes slow, narrow, silent, or that
// it cuts at a place of its choice. The kernel's own means for this need rights and modules that test machines do not have.
//
// What user space cannot do is to keep the kernel from acknowledging what it receives: behind a link that drops everything, a peer sees
// its bytes taken and nothing come back. That is what a middlebox does that has forgotten a connection, and the hardest case to notice.
package badlink
