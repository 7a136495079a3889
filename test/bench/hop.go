package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

// The goals of several kas.
const (
	goalHopUs      = 150
	goalColdMs     = 5
	goalOneAbsent  = 20
	goalManyAbsent = 50
)

// replicaRows are the figures of several kas.
func replicaRows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	dir, err := os.MkdirTemp("", "bench-replicas-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	progress("starting two kas and Redis")
	r, err := startReplicas(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	return calmly(ctx, r.daemons(), progress, func() ([]row, error) {
		defer r.client.CloseIdleConnections()
		return r.rows(ctx, e, progress)
	})
}

func (r *replicas) rows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	rows, err := r.hopRows(ctx, e)
	if err != nil {
		return rows, fmt.Errorf("the hop: %w", err)
	}
	for _, f := range []struct {
		name, unit string
		goal       float64
		measure    func(context.Context, effort) (float64, error)
	}{
		{"hop_cold_ms", "ms", goalColdMs, r.hopCold},
		{"absent_redis_cmds_s", "1/s", goalOneAbsent, func(ctx context.Context, e effort) (float64, error) { return r.absent(ctx, e, 1) }},
		{"absent_500_redis_cmds_s", "1/s", goalManyAbsent, func(ctx context.Context, e effort) (float64, error) { return r.absent(ctx, e, absentAgents) }},
	} {
		value, err := f.measure(ctx, e)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", f.name, err)
		}
		progress(fmt.Sprintf("%s: %.4g %s", f.name, value, f.unit))
		rows = append(rows, figure(f.name, f.unit, nil, []float64{value}, most(plain, f.goal)))
	}
	return rows, nil
}

// hopCold is how long after an agent has come to one kas a request that waits at the other one reaches it.
func (r *replicas) hopCold(ctx context.Context, _ effort) (float64, error) {
	var took []float64
	for i := range coldAgents {
		one, err := r.coldOnce(ctx, coldFirst+i)
		if err != nil {
			return 0, err
		}
		took = append(took, one)
	}
	return median(took), nil
}

func (r *replicas) coldOnce(ctx context.Context, id int) (float64, error) {
	answered := make(chan error, 1)
	go func() {
		_, err := r.through(1, id).get(ctx, "/version")
		answered <- err
	}()
	// Long enough for the request to wait. A request that has not arrived would be found by no agent sooner.
	time.Sleep(100 * time.Millisecond)
	conn, err := r.dial(0, id)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	conn.Connect()
	// The agent registers: its connection stands and its token is known.
	registered := time.Now()
	reached := make(chan time.Time, 1)
	stop, err := serve(conn, func(ctx context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		reached <- time.Now()
		return answer(ctx, md, s)
	})
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := <-answered; err != nil {
		return 0, err
	}
	return float64((<-reached).Sub(registered).Nanoseconds()) / 1e6, nil
}

// absentClients ask for agents that are not there.
const absentClients = 500

// absent is how many commands per second Redis has to answer meanwhile.
func (r *replicas) absent(ctx context.Context, e effort, agents int) (float64, error) {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var clients sync.WaitGroup
	for i := range absentClients {
		t := r.through(1, absentFirst+i%agents)
		clients.Go(func() {
			for asking.Err() == nil {
				_, _ = t.get(asking, "/version") // refused sooner or later
			}
		})
	}
	defer clients.Wait()
	defer stop()
	time.Sleep(e.each / 2) // all of them wait
	before, err := r.redis.Commands(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(e.absentFor())
	after, err := r.redis.Commands(ctx)
	if err != nil {
		return 0, err
	}
	return float64(after-before-1) / time.Since(began).Seconds(), nil
}

// absentFor evens out what happens every few seconds.
func (e effort) absentFor() time.Duration {
	if e.quick {
		return 10 * time.Second
	}
	return 20 * time.Second
}

func (r *replicas) dial(i, id int) (*grpc.ClientConn, error) {
	return grpc.NewClient(r.agents[i], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(token(agentToken(id))),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return false }

// connect lets an agent serve at a kas until the returned function is called.
func (r *replicas) connect(i, id int) (func(), error) {
	conn, err := r.dial(i, id)
	if err != nil {
		return nil, err
	}
	stop, err := serve(conn, answer)
	return func() {
		stop()
		_ = conn.Close()
	}, err
}

func serve(conn *grpc.ClientConn, h tunnel.Handler) (func(), error) {
	service := kubernetesapi.KubernetesApi_ServiceDesc
	p, err := tunnel.NewPool(tunnel.PoolConfig{
		Client: conn, Services: map[string]map[string]tunnel.Handler{service.ServiceName: {service.Streams[0].StreamName: h}},
		MaxStreams: 100, DrainTimeout: time.Second, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		return func() {}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx) // never fails
	}()
	return func() { cancel(); <-done }, nil
}

// answer says hello to every request.
func answer(_ context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		msg.Free()
	}
	for _, m := range []*grpctool.HttpResponse{
		{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
			Response: &prototool.HttpResponse{StatusCode: http.StatusOK, Status: "200 OK"},
		}}},
		{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("hello")}}},
		{Message: &grpctool.HttpResponse_Trailer_{Trailer: &grpctool.HttpResponse_Trailer{}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := s.Send(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil {
			return err
		}
	}
	return nil
}
