package kas

import (
	"context"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/internal/agentauth"
	configserver "gitlab.com/agentk/agentk/internal/agentconfig/server"
	"gitlab.com/agentk/agentk/internal/aside"
	"gitlab.com/agentk/agentk/internal/fault"
)

// configurationService is AgentConfiguration: it ends a stream as soon as its token is known to be revoked, and leaves the rest
// to the server, which would only notice at the next poll.
type configurationService struct {
	agentconfiguration.UnimplementedAgentConfigurationServer
	auth   *agentauth.Authenticator
	server *configserver.Server
}

type configurationStream = grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]

// sessionStream is a stream whose context ends with the agent's session.
type sessionStream[Response any] struct {
	grpc.ServerStreamingServer[Response]
	ctx context.Context
}

// Context returns the session's context.
func (s *sessionStream[Response]) Context() context.Context { return s.ctx }

// GetConfiguration implements the service.
func (s *configurationService) GetConfiguration(req *agentconfiguration.ConfigurationRequest, stream configurationStream) error {
	return inSession(s.auth, stream, func(stream configurationStream) error { return s.server.GetConfiguration(req, stream) })
}

// inSession serves a stream that ends as soon as the agent's token is known to be revoked.
func inSession[Response any](
	auth *agentauth.Authenticator, stream grpc.ServerStreamingServer[Response], serve func(grpc.ServerStreamingServer[Response]) error,
) error {
	in := &sessionStream[Response]{ServerStreamingServer: stream}
	var end func()
	err := aside.Do(func() error { // the stream then waits, perhaps for hours
		// Who is refused now gets no session; an outage is the server's to retry.
		if _, err := auth.Agent(stream.Context()); err != nil && fault.KindOf(err) != fault.Unavailable {
			return err
		}
		in.ctx, end = auth.Session(stream.Context())
		return nil
	})
	if err != nil {
		return err
	}
	defer end()
	err = serve(in)
	if in.ctx.Err() != nil && stream.Context().Err() == nil {
		return context.Cause(in.ctx)
	}
	return err
}
