package server

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/gitops/selection"
)

const (
	// chunk is the most data that one message has, in bytes.
	chunk = 128 << 10
	// loadTimeout bounds reading a batch with the wait for its turn, sendTimeout sending it: an agent that does not take its batch
	// in that time would hold memory that others wait for, and who waits outlasts it.
	loadTimeout = 5 * time.Minute
	sendTimeout = 3 * time.Minute
)

var errSlow = errors.New("the agent does not take what it asked for")

// deliver reads and sends the files of a commit. It is not cut short by the stream's age limit.
func (x *session) deliver(news *found) error {
	ctx, cancel := context.WithTimeout(x.stream.Context(), loadTimeout)
	defer cancel()
	end, err := x.s.turns.begin(ctx, news.agent.ID)
	if err != nil {
		return x.failed(err)
	}
	defer end()
	want, err := newWanted(news.project, news.commit, x.req.Paths)
	if err != nil {
		return x.failed(err)
	}
	b, release, err := x.s.batches.get(ctx, want.key, func(ctx context.Context) (*batch, error) {
		return x.s.loader.load(ctx, want)
	})
	if err != nil {
		return x.failed(err)
	}
	defer release()
	header := &gitops.ObjectsToSynchronizeResponse_Header{CommitId: news.commit, ProjectId: news.project.ID}
	if err := x.s.senders.send(x.stream, header, b); err != nil {
		return x.failed(err)
	}
	x.s.cfg.OnSync()
	x.s.metrics.results.WithLabelValues(resultSent).Inc()
	x.log.Info("GitOps: fetched files", zap.String("commit_id", news.commit), zap.Int("files_visited", b.visited), zap.Int("files_sent", len(b.files)))
	return nil
}

// failed is the status of a stream that did not get to the end of its batch.
func (x *session) failed(err error) error {
	var mistake *selection.UserError
	kind := fault.KindOf(err)
	switch {
	case errors.As(err, &mistake), kind == fault.FailedPrecondition, kind == fault.InvalidArgument, kind == fault.NotFound:
		return x.reject(codes.FailedPrecondition, fetchFailed+": "+err.Error())
	case x.stream.Context().Err() != nil:
		return x.ended()
	}
	x.s.metrics.results.WithLabelValues(resultError).Inc()
	x.log.Warn("GitOps: files could not be fetched", zap.Error(err))
	if kind == fault.DeadlineExceeded {
		return status.Error(codes.DeadlineExceeded, fetchFailed)
	}
	return status.Error(codes.Unavailable, fetchFailed)
}

// senders send batches. A message that an agent does not take can only be given up by ending its stream, so a sender may outlive its
// stream for a moment.
type senders struct{ running sync.WaitGroup }

func (s *senders) wait() { s.running.Wait() }

// send sends a batch, or gives up after sendTimeout. The batch is not touched after send has returned but for the piece that hangs.
func (s *senders) send(stream responses, header *gitops.ObjectsToSynchronizeResponse_Header, b *batch) error {
	giveUp := make(chan struct{})
	sent := make(chan error, 1)
	s.running.Go(func() { sent <- sendAll(stream, header, b, giveUp) })
	timer := time.NewTimer(sendTimeout)
	defer timer.Stop()
	select {
	case err := <-sent:
		return err
	case <-timer.C:
		close(giveUp)
		return errSlow
	}
}

func sendAll(stream responses, header *gitops.ObjectsToSynchronizeResponse_Header, b *batch, giveUp <-chan struct{}) error {
	err := stream.Send(&gitops.ObjectsToSynchronizeResponse{Message: &gitops.ObjectsToSynchronizeResponse_Header_{Header: header}})
	if err != nil {
		return err
	}
	for _, f := range b.files {
		if err := sendFile(stream, f, giveUp); err != nil {
			return err
		}
	}
	return stream.Send(&gitops.ObjectsToSynchronizeResponse{
		Message: &gitops.ObjectsToSynchronizeResponse_Trailer_{Trailer: &gitops.ObjectsToSynchronizeResponse_Trailer{}},
	})
}

// sendFile sends at least one message, also for an empty file.
func sendFile(stream responses, f file, giveUp <-chan struct{}) error {
	pieces := slices.Collect(slices.Chunk(f.data, chunk))
	if len(pieces) == 0 {
		pieces = [][]byte{nil}
	}
	for _, piece := range pieces {
		select {
		case <-giveUp:
			return errSlow
		case <-stream.Context().Done():
			return stream.Context().Err()
		default:
		}
		err := stream.Send(&gitops.ObjectsToSynchronizeResponse{Message: &gitops.ObjectsToSynchronizeResponse_Object_{
			Object: &gitops.ObjectsToSynchronizeResponse_Object{Source: f.path, Data: piece},
		}})
		if err != nil {
			return err
		}
	}
	return nil
}
