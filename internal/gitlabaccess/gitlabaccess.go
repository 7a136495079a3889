// Package gitlabaccess lets modules of an agent, such as container scanning, call the part of GitLab that is theirs. kas adds its
// own proof of identity to these calls, which opens all of GitLab's internal API: so the module is named by the call, never by the
// path, and an agent's token decides at GitLab whose data it is about. kas itself does not ask who the agent is.
package gitlabaccess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/gitlabaccess"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/rules"
)

const (
	// defaultCallTimeout bounds a call from its first to its last byte.
	defaultCallTimeout = 5 * time.Minute
	// defaultMaxBody bounds a request body, which is held in memory until it is complete.
	defaultMaxBody = 16 << 20
	// callsPerToken is how many calls of one token are performed at a time; more wait. It bounds what one agent can make kas hold.
	callsPerToken = 10
)

// Modules passes a request on to GitLab.
type Modules interface {
	// Module performs a request of an agent's module. Method, path, query, headers and body are those of r; the path must not be
	// able to leave the module, and the headers must not be able to say who asks. The caller closes the answer's body. Errors are
	// faults.
	Module(ctx context.Context, agentToken, module string, r *http.Request) (*http.Response, error)
}

// Config configures a Server.
type Config struct {
	Modules Modules
	// Token is the agent token of an RPC.
	Token func(ctx context.Context) string
	// MaxBody bounds a request body in bytes; 0 is 16 MiB.
	MaxBody int64
	// CallTimeout bounds a call; 0 is 5 minutes.
	CallTimeout time.Duration
	Log         *zap.Logger
}

// Server is the GitlabAccess service.
type Server struct {
	gitlabaccess.UnimplementedGitlabAccessServer

	cfg       Config
	responder *httpgrpc.Responder
	slots     slots
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Modules == nil || cfg.Token == nil || cfg.Log == nil {
		return nil, errors.New("gitlabaccess: Modules, Token and Log are required")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = defaultCallTimeout
	}
	s := &Server{cfg: cfg, slots: slots{byToken: map[string]*slot{}}}
	var err error
	s.responder, err = httpgrpc.NewResponder(httpgrpc.ResponderConfig{Performer: s})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// MakeRequest implements the service. The server that it is registered at must pass *frame.Raw through.
func (s *Server) MakeRequest(stream grpc.BidiStreamingServer[grpctool.HttpRequest, grpctool.HttpResponse]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), s.cfg.CallTimeout)
	defer cancel()
	release, err := s.slots.take(ctx, s.cfg.Token(ctx))
	if err != nil {
		return fault.Wrap(fault.KindOf(err), fault.Kas, err, "wait for other calls of this agent")
	}
	defer release()
	return s.responder.Serve(ctx, messages{stream})
}

// RoundTrip implements httpgrpc.Performer; extra is a HeaderExtra.
func (s *Server) RoundTrip(req *http.Request, extra *anypb.Any) (*http.Response, error) {
	ctx := req.Context()
	module, err := moduleOf(extra)
	if err != nil {
		return nil, err
	}
	if len(httpgrpc.UpgradeOf(req.Header)) > 0 {
		return nil, errors.New("connection upgrade is not supported")
	}
	body, err := s.body(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp, err := s.cfg.Modules.Module(ctx, s.cfg.Token(ctx), module, req)
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.Warn("Call of an agent's module failed", zap.String("module", module), zap.Error(err))
		}
		return nil, err
	}
	return resp, nil
}

func moduleOf(extra *anypb.Any) (string, error) {
	h := &gitlabaccess.HeaderExtra{}
	if extra == nil {
		return "", errors.New("the request header names no module: extra is missing")
	}
	if err := extra.UnmarshalTo(h); err != nil {
		return "", fmt.Errorf("extra of the request header: %w", err)
	}
	if err := rules.Validate(h); err != nil {
		return "", fmt.Errorf("extra of the request header: %w", err)
	}
	return h.ModuleName, nil
}

// body reads a request body whole, because a request that GitLab did not get right is repeated.
func (s *Server) body(from io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, s.cfg.MaxBody+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > s.cfg.MaxBody {
		return nil, fault.New(fault.ResourceExhausted, fault.Agent, "the request body has more than %d bytes", s.cfg.MaxBody)
	}
	return body, nil
}

// messages are the serialized messages of an RPC.
type messages struct{ stream grpc.ServerStream }

func (m messages) Send(msg mem.BufferSlice) error { return m.stream.SendMsg(&frame.Raw{Data: msg}) }

func (m messages) Recv() (mem.BufferSlice, error) {
	raw := frame.Raw{}
	if err := m.stream.RecvMsg(&raw); err != nil {
		return nil, err
	}
	return raw.Data, nil
}

// Ahead has nothing to do: a server's stream ends its context by itself.
func (messages) Ahead() {}
