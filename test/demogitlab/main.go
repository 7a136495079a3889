// Command demogitlab shows the line beside a GitLab: people push with git, GitLab tells kas, agents and jobs are those of GitLab, and a
// runner executes the jobs of a .gitlab-ci.yml with the kubeconfig that GitLab injects. GitLab is the double of the tests; git, kas,
// agentk, kubectl and the Kubernetes API server are real. It tells each step in a line, ends with a summary and an exit code, and cleans
// up. With KEEP=1 everything stays up until Ctrl-C.
package main

import "gitlab.com/agentk/agentk/test/narrator"

func main() { narrator.Main(begin) }
