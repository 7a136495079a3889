// Package gitlab is a GitLab for tests: what a self-managed GitLab is to kas, to agents' users and to CI jobs, in one process and without a
// database. It answers the internal REST API that kas calls and those parts of the public one that kas, glab and jobs need, serves real
// git repositories over HTTP and through Gitaly's RPCs, calls kas over gRPC as Rails does, and runs CI jobs with the kubeconfig that Rails
// injects. It is strict where GitLab is, behaves as the version it is told to be, and can be told to misbehave.
//
// A test starts one, fills it, points kas at URL and SecretFile, and asks it afterwards what it was asked:
//
//	gl, err := gitlab.Start(ctx, gitlab.Config{Version: "18.3"})
//	defer gl.Stop()
//	_, err = gl.AddProject(ctx, gitlab.Project{Path: "acme/infra"})
//	agent, err := gl.AddAgent(gitlab.Agent{Name: "edge", Project: "acme/infra"})
//	token, err := gl.CreateToken(agent.ID)
//	gl.Break(gitlab.AgentInfo, gitlab.Fault{Status: 503, Times: 2})
package gitlab
