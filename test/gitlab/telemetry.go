package gitlab

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// ReceptiveAgent is an agent that kas is to dial.
type ReceptiveAgent struct {
	ID      int64             `json:"id"`
	URL     string            `json:"url"`
	CACert  string            `json:"ca_cert,omitempty"`
	TLSHost string            `json:"tls_host,omitempty"`
	JWT     map[string]string `json:"jwt"`
	MTLS    map[string]string `json:"mtls"`
}

// integer reads a whole number as Rails does, which also takes one in a string.
func integer(value any) (int64, bool) {
	switch v := value.(type) {
	case json.Number:
		n, err := v.Int64()
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// Counters are the sums of the counters that kas reported.
func (g *GitLab) Counters() map[string]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.db.counters)
}

// UniqueCounters are the different elements that kas reported, in order.
func (g *GitLab) UniqueCounters() map[string][]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := map[string][]int64{}
	for name, set := range g.db.uniques {
		all[name] = slices.Sorted(maps.Keys(set))
	}
	return all
}

// Events are the items of one kind of event that kas reported.
func (g *GitLab) Events(kind string) []map[string]any {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.db.events[kind])
}

func (g *GitLab) serveUsageMetrics(w http.ResponseWriter, r *http.Request) {
	counters, uniques, err := readUsage(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, n := range counters {
		g.db.counters[name] += n
	}
	for name, elements := range uniques {
		if g.db.uniques[name] == nil {
			g.db.uniques[name] = map[int64]bool{}
		}
		for _, e := range elements {
			g.db.uniques[name][e] = true
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

type typeError string

func (e typeError) Error() string { return string(e) + " is invalid" }

func readUsage(r *http.Request) (counters map[string]int64, uniques map[string][]int64, err error) {
	body, err := bodyOf(r)
	if err != nil {
		return nil, nil, err
	}
	counters, uniques = map[string]int64{}, map[string][]int64{}
	given, valid := object(body, "counters")
	if !valid {
		return nil, nil, typeError("counters")
	}
	for name, value := range given {
		if counters[name], valid = integer(value); !valid {
			return nil, nil, typeError("counters[" + name + "]")
		}
	}
	if given, valid = object(body, "unique_counters"); !valid {
		return nil, nil, typeError("unique_counters")
	}
	for name, value := range given {
		elements, list := value.([]any)
		if !list {
			return nil, nil, typeError("unique_counters[" + name + "]")
		}
		for _, e := range elements {
			n, valid := integer(e)
			if !valid {
				return nil, nil, typeError("unique_counters[" + name + "]")
			}
			uniques[name] = append(uniques[name], n)
		}
	}
	return counters, uniques, nil
}

// object is an object in another one; absent is empty.
func object(in map[string]any, key string) (map[string]any, bool) {
	value, present := in[key]
	if !present {
		return nil, true
	}
	o, valid := value.(map[string]any)
	return o, valid
}

// integersOf are the keys of each kind of event that must be whole numbers.
var integersOf = map[string][]string{
	"k8s_api_proxy_requests_unique_users_via_ci_access":   {"user_id", "project_id"},
	"k8s_api_proxy_requests_unique_users_via_user_access": {"user_id", "project_id"},
	"k8s_api_proxy_requests_unique_users_via_pat_access":  {"user_id", "project_id"},
	"register_agent_at_kas":                               {"project_id", "agent_id"},
}

func (g *GitLab) serveAgentEvents(w http.ResponseWriter, r *http.Request) {
	body, err := bodyOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	events, valid := object(body, "events")
	if !valid {
		fail(w, http.StatusBadRequest, typeError("events").Error())
		return
	}
	read := map[string][]map[string]any{}
	for kind, list := range events {
		items, listed := list.([]any)
		for _, i := range items {
			item, object := i.(map[string]any)
			for _, key := range integersOf[kind] {
				_, whole := integer(item[key])
				object = object && whole
			}
			listed = listed && object
			read[kind] = append(read[kind], item)
		}
		if !listed {
			fail(w, http.StatusBadRequest, typeError("events["+kind+"]").Error())
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for kind, items := range read {
		g.db.events[kind] = append(g.db.events[kind], items...)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (g *GitLab) serveReceptiveAgents(w http.ResponseWriter, _ *http.Request) {
	settings := g.current()
	if settings.Tier < Ultimate {
		fail(w, http.StatusNotFound, "404 Not Found")
		return
	}
	agents := settings.ReceptiveAgents
	if agents == nil {
		agents = []ReceptiveAgent{}
	}
	answer(w, http.StatusOK, map[string]any{"agents": agents})
}
