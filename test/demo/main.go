// Command demo shows the whole line once, on real parts: git, kas, agentk, a Kubernetes API server, and kubectl in CI jobs. It tells each
// step in a line, ends with a summary and an exit code, and cleans up. With KEEP=1 everything stays up until Ctrl-C.
package main

import "gitlab.com/agentk/agentk/test/narrator"

func main() { narrator.Main(begin) }
