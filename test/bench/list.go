package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"time"
)

const (
	bulkObjects = 50
	bulkSize    = 1_000_000
)

// bulk is a namespace of ConfigMaps, 50 MB of them.
type bulk string

const (
	bulkText   bulk = "bulk-text"   // looks like YAML
	bulkRandom bulk = "bulk-random" // does not compress
)

func (b bulk) path() string { return "/api/v1/namespaces/" + string(b) + "/configmaps" }

// lists is what is left of the API server's throughput, and what a byte costs.
func lists(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	var rows []row
	var cost []float64
	for _, of := range []struct {
		name string
		bulk bulk
	}{{"list50_text", bulkText}, {"list50_random", bulkRandom}} {
		r, samples, err := st.list(ctx, s, of.name, of.bulk, least(ratio, 0.45))
		if err != nil {
			return rows, fmt.Errorf("%s: %w", of.name, err)
		}
		rows = append(rows, r)
		cost = append(cost, pick(samples, func(r reading) float64 { return r.cpu / (float64(r.bytes) / 1e9) })...)
	}
	rows = append(rows, figure("cpu_per_gb_s", "s/GB", nil, cost, most(plain, 4)))
	direct, line, err := alternate(ctx, st.effort, s.loader(s.fakeDirect, bulkText.path(), 1, s.fakeAgent), s.loader(s.fakeLine, bulkText.path(), 1, s.fakeAgent))
	if err != nil {
		return rows, fmt.Errorf("list50_fake: %w", err)
	}
	rows = append(rows, figure("list50_fake", "MB/s", pick(direct, reading.speed), pick(line, reading.speed), goal{}))
	return rows, st.profile(ctx, s.l, s.agent, "list50_text", func(ctx context.Context, d time.Duration) error {
		_, err := s.line.load(ctx, bulkText.path(), 1, d)
		return err
	})
}

func (st *stage) list(ctx context.Context, s *scene, name string, b bulk, g goal) (row, []reading, error) {
	if err := st.fill(ctx, s.direct, b); err != nil {
		return row{}, nil, err
	}
	direct, line, err := alternate(ctx, st.effort, s.loader(s.direct, b.path(), 1, s.agent), s.loader(s.line, b.path(), 1, s.agent))
	if err != nil {
		return row{}, nil, err
	}
	return figure(name, "MB/s", pick(direct, reading.speed), pick(line, reading.speed), g), line, nil
}

// fill writes the objects of a large list, once.
func (st *stage) fill(ctx context.Context, t target, b bulk) error {
	if st.filled[b] {
		return nil
	}
	st.progress("writing 50 MB of ConfigMaps: " + string(b))
	if err := st.cluster.Apply(ctx, "{apiVersion: v1, kind: Namespace, metadata: {name: "+string(b)+"}}"); err != nil {
		return err
	}
	for i := range bulkObjects {
		object := map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "bulk-" + strconv.Itoa(i)},
			"data": map[string]string{"text": b.content(i)},
		}
		body, err := json.Marshal(object)
		if err != nil {
			return err
		}
		if err := t.post(ctx, b.path(), body); err != nil {
			return err
		}
	}
	if st.filled == nil {
		st.filled = map[bulk]bool{}
	}
	st.filled[b] = true
	return nil
}

func (b bulk) content(i int) string {
	if b == bulkRandom {
		raw := make([]byte, bulkSize/4*3)
		_, _ = rand.Read(raw) // never fails
		return base64.StdEncoding.EncodeToString(raw)
	}
	var text bytes.Buffer
	for text.Len() < bulkSize {
		fmt.Fprintf(&text, "  - name: value-%06d\n    description: number %d of object %d\n", mathrand.IntN(1e6), mathrand.IntN(1e9), i)
	}
	return text.String()
}
