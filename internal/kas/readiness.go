package kas

import (
	"context"

	"gitlab.com/agentk/agentk/internal/telemetry"
)

// The servers that have to serve before kas is ready, under the names that stock kas gives them.
const (
	agentServer      = "agentServer"
	kubernetesAPI    = "kubernetesApi"
	apiServer        = "apiServer"
	privateAPIServer = "privateApiServer"
)

// newReadiness notes which servers there are. Before the first of them serves, kas is not ready.
func (s *server) newReadiness(context.Context) error {
	s.servers = map[string]*telemetry.Toggle{}
	for _, part := range []struct {
		name   string
		exists bool
	}{
		{agentServer, true},
		{kubernetesAPI, s.proxy != nil},
		{apiServer, s.rails.server != nil},
		{privateAPIServer, s.others.server != nil},
	} {
		if part.exists {
			s.servers[part.name] = s.ready.Toggle(part.name)
		}
	}
	return nil
}

// serving says that a server serves until ctx ends. The returned function ends what serving has started.
func (s *server) serving(ctx context.Context, name string) func() bool {
	toggle := s.servers[name]
	toggle.Set(true)
	return context.AfterFunc(ctx, func() { toggle.Set(false) })
}
