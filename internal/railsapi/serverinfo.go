package railsapi

import (
	"context"
	"strings"

	"gitlab.com/agentk/agentk/api/serverinfo"
	"gitlab.com/agentk/agentk/api/serverinfo/rpc"
	"gitlab.com/agentk/agentk/internal/version"
)

// serverInfo is ServerInfo.
type serverInfo struct {
	rpc.UnimplementedServerInfoServer
}

// GetServerInfo implements the service. GitLab puts a "v" in front of the version where it wants one.
func (serverInfo) GetServerInfo(context.Context, *rpc.GetServerInfoRequest) (*rpc.GetServerInfoResponse, error) {
	return &rpc.GetServerInfoResponse{CurrentServerInfo: &serverinfo.ServerInfo{
		Version: strings.TrimPrefix(version.Version, "v"), GitRef: version.Commit,
	}}, nil
}
