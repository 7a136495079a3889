package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
)

var (
	// errNothing ends a stream on which there was nothing new.
	errNothing = errors.New("kas ended the stream before it sent anything")
	errSlow    = errors.New("kas did not send the files in time")
)

// batch is a stream after its header: the files of one commit are still to come.
type batch struct {
	commit  string
	project int64

	stream grpc.ServerStreamingClient[gitops.ObjectsToSynchronizeResponse]
	cancel context.CancelCauseFunc
	ctx    context.Context
	timer  *time.Timer
}

// fetcher reads files through kas.
type fetcher struct {
	client gitops.GitopsClient
	limit  time.Duration // of a batch, from its header on
}

// open waits for a commit other than known. After errNothing the stream has to be opened again. The batch must be closed.
func (f fetcher) open(ctx context.Context, r *repository, paths []*gitops.PathCF, ref *gitops.GitRefCF, known string) (*batch, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &batch{cancel: cancel, ctx: ctx}
	err := f.begin(b, &gitops.ObjectsToSynchronizeRequest{ProjectId: r.project, CommitId: known, Paths: paths, Ref: ref})
	if err != nil {
		b.close()
		return nil, about(r, err)
	}
	b.timer = time.AfterFunc(f.limit, func() { cancel(errSlow) })
	return b, nil
}

func (f fetcher) begin(b *batch, req *gitops.ObjectsToSynchronizeRequest) error {
	var err error
	if b.stream, err = f.client.GetObjectsToSynchronize(b.ctx, req, grpc.WaitForReady(true)); err != nil {
		return err
	}
	m, err := b.stream.Recv()
	if errors.Is(err, io.EOF) {
		return errNothing
	}
	if err != nil {
		return err
	}
	header := m.GetHeader()
	if header.GetCommitId() == "" {
		return errors.New("kas did not send a commit first")
	}
	b.commit, b.project = header.GetCommitId(), header.GetProjectId()
	return nil
}

// fetch reads the files of a commit at once.
func (f fetcher) fetch(ctx context.Context, r *repository, paths []*gitops.PathCF, commit string, put func(path string, data []byte) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, f.limit, errSlow)
	defer cancel()
	b, err := f.open(ctx, r, paths, commitRef(commit), "")
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
			err = about(r, cause)
		}
		return err
	}
	defer b.close()
	if b.commit != commit {
		return about(r, fmt.Errorf("kas sent commit %.64q instead of %s", b.commit, commit))
	}
	return about(r, b.relay(put))
}

// relay passes on pieces of files as they come, until the batch is whole. Without an error it was, and the stream has ended.
func (b *batch) relay(put func(path string, data []byte) error) error {
	whole := false
	for {
		m, err := b.stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && whole:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("kas ended the stream before all files were there")
		case err != nil:
			if cause := context.Cause(b.ctx); cause != nil {
				return cause
			}
			return err
		case whole:
			return errors.New("kas goes on after the end of the files")
		case m.GetTrailer() != nil:
			whole = true
		case m.GetObject().GetSource() != "":
			if err := put(m.GetObject().GetSource(), m.GetObject().GetData()); err != nil {
				return err
			}
		default:
			return errors.New("kas sent a message that does not belong there")
		}
	}
}

// close gives the stream up, wherever it stands.
func (b *batch) close() {
	if b.timer != nil {
		b.timer.Stop()
	}
	b.cancel(nil)
	if b.stream == nil {
		return
	}
	for { // the library wants to see the end
		if _, err := b.stream.Recv(); err != nil {
			return
		}
	}
}

// about says which project an error is about.
func about(r *repository, err error) error {
	if err == nil || errors.Is(err, errNothing) || errors.Is(err, errEngine) {
		return err
	}
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("read project %s: this kas has no GitOps: %w", r.project, err)
	}
	return fmt.Errorf("read project %s: %w", r.project, err)
}

// isUserError says that the repository or the configuration is wrong, and not the line.
func isUserError(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.NotFound, codes.InvalidArgument, codes.PermissionDenied:
		return true
	default:
		return false
	}
}
