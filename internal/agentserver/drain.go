package agentserver

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// How agents leave a kas that stops. Nobody is cut off and nobody waits for a stream:
//
//   - First new connections are accepted as before, for the grace period, and as long as requests of Kubernetes clients can
//     arrive here.
//   - Then each connection gets a GOAWAY. The agent connects to another kas within a quarter of a second, and parks streams there,
//     while those it has here still serve.
//   - After moveTime the streams that are parked here end in order, and so do the other long polls. This is what moves stock
//     agents, which look for another kas only when they need a new stream.
//   - Calls that run may end, for DrainTimeout.
//
// Thousands of agents are not sent away in one moment: the connections are dealt to several gRPC servers, because a gRPC server can
// only say goodbye to all of its connections at once, and their goodbyes are spread so that the others see at most moveRate new
// connections per second.
const (
	groups = 16
	// moveTime is how long agents may take to connect elsewhere, at most; it is never longer than the grace period.
	moveTime = 2 * time.Second
	// moveRate is how many agents per second are sent away, as long as that takes no longer than maxSpread.
	moveRate  = 250
	maxSpread = 10 * time.Second
	// stopTimeout bounds the end of a server whose handlers were cancelled.
	stopTimeout = 5 * time.Second
)

// Run serves until ctx ends, and then stops in the order above. It returns when nothing of it runs any more.
func (s *Server) Run(ctx context.Context) error {
	// The listener outlives ctx by the grace period; closing it is what ends the Mux.
	listener := s.cfg.Mux.GRPCListener()
	accepting := make(chan error, 1)
	go func() { accepting <- s.cfg.Mux.Run(context.WithoutCancel(ctx)) }()
	serving := make(chan error, len(s.groups))
	for _, g := range s.groups {
		go func() { serving <- g.grpc.Serve(listener) }()
	}

	var acceptErr, serveErr error
	accepted, served := false, 0
	select {
	case <-ctx.Done():
		s.cfg.Log.Info("Agent server is stopping", zap.Duration("listen_grace_period", s.cfg.ListenGracePeriod))
		accepted, acceptErr = s.linger(accepting)
	case acceptErr = <-accepting:
		accepted = true
	case serveErr = <-serving:
		served++
	}
	_ = listener.Close()
	if !accepted {
		acceptErr = <-accepting
	}
	clean := s.drain()
	for ; served < len(s.groups) && clean; served++ {
		if err := <-serving; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			serveErr = errors.Join(serveErr, err)
		}
	}
	return errors.Join(acceptErr, serveErr)
}

// linger goes on accepting for the grace period, and as long as agents are needed here. True: accepting has ended by itself.
func (s *Server) linger(accepting <-chan error) (ended bool, err error) {
	grace := time.NewTimer(s.cfg.ListenGracePeriod)
	defer grace.Stop()
	over, needed := grace.C, s.cfg.Needed
	for over != nil || needed != nil {
		select {
		case <-over:
			over = nil
		case <-needed:
			needed = nil
		case err := <-accepting:
			return true, err
		}
	}
	return false, nil
}

// drain sends all agents away and waits. It says whether everything has ended.
func (s *Server) drain() bool {
	agents := s.cfg.Auth.Live()
	spread := spreadOf(agents, s.cfg.DrainTimeout)
	s.cfg.Log.Info("Agents are asked to connect to another kas", zap.Int("count", agents), zap.Duration("within", spread))
	deadline := time.Now().Add(s.cfg.DrainTimeout)
	clean := make([]bool, len(s.groups))
	var all sync.WaitGroup
	for i, g := range s.groups {
		all.Go(func() {
			time.Sleep(spread * time.Duration(i) / time.Duration(len(s.groups)))
			clean[i] = s.drainGroup(g, deadline)
		})
	}
	all.Wait()
	for _, ok := range clean {
		if !ok {
			s.cfg.Log.Error("Agent RPC handlers ignore that their connection is gone")
			return false
		}
	}
	return true
}

// spreadOf is in what time so many agents are sent away.
func spreadOf(agents int, drain time.Duration) time.Duration {
	return min(time.Duration(agents)*time.Second/moveRate, maxSpread, drain/2)
}

// drainGroup ends all RPCs of a group, politely at first. A handler that ignores its cancelled context is left behind after
// stopTimeout, because nothing else can be done about it; drainGroup then says false.
func (s *Server) drainGroup(g *group, deadline time.Time) bool {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		g.grpc.GracefulStop()
	}()
	move := min(moveTime, s.cfg.ListenGracePeriod, time.Until(deadline))
	if closedWithin(graceful, move) {
		return true
	}
	g.polls.End()
	if closedWithin(graceful, time.Until(deadline)) {
		return true
	}
	s.cutting.Do(func() {
		s.cfg.Log.Warn("Agent RPCs did not finish in time, cutting them", zap.Duration("drain_timeout", s.cfg.DrainTimeout))
	})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		g.grpc.Stop()
	}()
	return closedWithin(stopped, stopTimeout) && closedWithin(graceful, stopTimeout)
}

// closedWithin waits for a channel to close, at most for a while.
func closedWithin(done <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
