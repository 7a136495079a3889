package kas

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/aside"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

// authRetry is how often a parked stream asks again who its agent is while the outside world cannot answer. A stream is worth
// keeping: the agent would only open it anew.
var authRetry = backoff.Policy{Initial: 20 * time.Millisecond, Max: 100 * time.Millisecond, Factor: 2, Jitter: 1, ResetAfter: 10 * time.Second}

// tunnelService is ReverseTunnel: it says whose stream it is and leaves the rest to the registry.
type tunnelService struct {
	reversetunnel.UnimplementedReverseTunnelServer
	auth     *agentauth.Authenticator
	registry *tunnel.Registry
}

// Connect parks one stream.
func (s *tunnelService) Connect(stream grpc.BidiStreamingServer[reversetunnel.ConnectRequest, reversetunnel.ConnectResponse]) error {
	o := &owner{service: s, stream: stream}
	if err := aside.Do(o.find); err != nil {
		return err
	}
	defer o.end()
	return s.registry.Connect(stream, o.agentID, o.session, o.ageLimit)
}

// owner is whose stream it is, and for how long.
type owner struct {
	service           *tunnelService
	stream            grpc.ServerStream
	agentID           int64
	session, ageLimit context.Context //nolint:containedctx // they are what is looked for
	end               func()
}

func (o *owner) find() error {
	ctx := o.stream.Context()
	agent, err := o.service.agent(ctx)
	if err != nil {
		return err
	}
	o.agentID = agent.ID
	var endSession, endLimit func()
	o.session, endSession = o.service.auth.Session(ctx)
	o.ageLimit, endLimit = agentauth.AgeLimited(ctx)
	o.end = func() {
		endLimit()
		endSession()
	}
	return nil
}

func (s *tunnelService) agent(ctx context.Context) (backend.Agent, error) {
	retry := backoff.New(authRetry)
	for {
		agent, err := s.auth.Agent(ctx)
		if err == nil || fault.KindOf(err) != fault.Unavailable {
			return agent, err
		}
		timer := time.NewTimer(retry.Next())
		select {
		case <-ctx.Done():
			timer.Stop()
			return backend.Agent{}, ctx.Err()
		case <-timer.C:
		}
	}
}
