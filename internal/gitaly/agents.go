package gitaly

import (
	"context"
	"errors"
	"io"
	"regexp"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	agentsFolder = ".gitlab/agents"
	// maxEntries bounds the work that one listing makes. A folder of agents has a few entries for each of them.
	maxEntries = 100_000
)

// agentFile is large when compiled, and not every kas looks for agents.
var agentFile = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\.gitlab/agents/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/config\.yaml$`)
})

// AgentConfigFile is the configuration file of an agent.
type AgentConfigFile struct {
	// Path is the file's in the repository.
	Path string
	// Agent is the agent's name.
	Agent string
}

// AgentConfigFiles are the configuration files at the head of a project's default branch, in git's order. Where there is no
// branch, commit or folder there are none. The faults: FailedPrecondition if there are too many files to look through,
// InvalidArgument if the server does not accept the question, Unavailable if the repository cannot be read now.
func (c *Client) AgentConfigFiles(ctx context.Context, p backend.Project) ([]AgentConfigFile, error) {
	o, err := c.operation(p)
	if err != nil {
		return nil, err
	}
	// By commit: the name of a branch may mean different commits on different nodes.
	commit, err := c.Head(ctx, p)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound, err == nil && commit == "":
		return nil, nil
	case err != nil:
		return nil, err
	}
	o.session = c.memory.session(o.key())
	files, some, err := o.agentFiles(ctx, commit)
	if err == nil && !some {
		// No such folder, or a replica that does not have the commit yet.
		o.primary = true
		files, _, err = o.agentFiles(ctx, commit)
	}
	return files, err
}

// agentFiles lists at one commit; some says whether there is anything in the folder.
func (o *operation) agentFiles(ctx context.Context, commit string) (files []AgentConfigFile, some bool, err error) {
	err = o.call(ctx, listTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		files, some = nil, false
		stream, err := gitalypb.NewCommitServiceClient(cc).GetTreeEntries(ctx, &gitalypb.GetTreeEntriesRequest{
			Repository: o.repository, Revision: []byte(commit), Path: []byte(agentsFolder), Recursive: true, SkipFlatPaths: true,
		})
		if err != nil {
			return err
		}
		seen := 0
		for {
			piece, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF), !some && isUnresolved(err):
				return nil
			case status.Code(err) == codes.InvalidArgument:
				return o.refused(err)
			case err != nil:
				return err
			}
			seen += len(piece.GetEntries())
			some = seen > 0
			if seen > maxEntries {
				return fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s has more than %d entries", o.project, agentsFolder, maxEntries)
			}
			files = append(files, agentFilesOf(piece.GetEntries())...)
		}
	})
	if err != nil {
		return nil, false, err
	}
	return files, some, nil
}

// refused is the fault of a question that the server does not accept.
func (o *operation) refused(err error) error {
	text := status.Convert(err).Message()
	o.alert(codes.InvalidArgument, "Gitaly does not accept a call of kas", text)
	return fault.New(fault.InvalidArgument, fault.Git, "project %q: Gitaly does not list %s: %s", o.project, agentsFolder, text)
}

func agentFilesOf(entries []*gitalypb.TreeEntry) []AgentConfigFile {
	var files []AgentConfigFile
	for _, entry := range entries {
		match := agentFile().FindSubmatch(entry.GetPath())
		if match == nil || entry.GetType() != gitalypb.TreeEntry_BLOB || entry.GetMode()&modeType != modeRegular {
			continue
		}
		files = append(files, AgentConfigFile{Path: string(entry.GetPath()), Agent: string(match[1])})
	}
	return files
}
