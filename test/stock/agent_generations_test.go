package stock

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAgent15_RegistersByItsConfigurationStream: there is no registrar yet, and the agent is known as long as its stream lives.
func TestAgent15_RegistersByItsConfigurationStream(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-15", "ws")
	configuration := a.call(t, getConfiguration)
	configuration.last(a.says.message(t, "configuration"))
	checkConfiguration(t, configuration)
	eventually(t, "registration", func() bool { return k.registered(t, "v15.11.0", 1) })
	configuration.reset(cancel)
	eventually(t, "the end of the registration", func() bool { return k.registered(t, "v15.11.0", 0) })
}

// TestAgent15_PoolOf100: as many tunnels as such an agent may open, all used at the same time.
func TestAgent15_PoolOf100(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-15", "ws")
	parked := a.park(t, 100)
	a.settle(t)
	var answers []<-chan outcome
	for range parked {
		answers = append(answers, k.ask(t, "/version"))
	}
	for _, s := range parked {
		a.request(t, s)
	}
	for _, s := range parked {
		a.respond(t, s)
	}
	for i, answered := range answers {
		if o := <-answered; o.err != nil || o.status != http.StatusOK {
			t.Errorf("request %d: %+v", i, o)
		}
	}
	for _, s := range parked {
		checkStatus(t, s, "0")
	}
}

// TestAgent17_Register: metadata of the agent has fields that this kas does not know, and the agent says goodbye.
func TestAgent17_Register(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-17", "ws")
	if got := a.unary(t, register, "register"); len(got) != 0 {
		t.Errorf("Register answers %x", got)
	}
	eventually(t, "registration", func() bool { return k.registered(t, "v17.5.0", 1) })
	if got := a.unary(t, unregister, "unregister"); len(got) != 0 {
		t.Errorf("Unregister answers %x", got)
	}
	if !k.registered(t, "v17.5.0", 0) {
		t.Error("the agent stays registered")
	}
}

// TestAgent17_Configuration: also with the pseudo commit of a branch that did not exist when the agent last asked.
func TestAgent17_Configuration(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-17", "ws")
	for _, section := range []string{"configuration", "configuration-no-ref"} {
		s := a.call(t, getConfiguration)
		s.last(a.says.message(t, section))
		checkConfiguration(t, s)
	}
	if !k.registered(t, "v17.5.0", 0) {
		t.Error("the configuration stream registers an agent that asked not to be")
	}
}

// TestAgent17_OneRequest: version 17 does as 16.6 did. Messages of a WebSocket need not hold whole frames.
func TestAgent17_OneRequest(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-17", "ws")
	a.write(func() error { a.ws.piece = 7; return nil })
	answered := k.ask(t, "/version")
	s := a.park(t, 1)[0]
	a.request(t, s)
	a.respond(t, s)
	if o := <-answered; o.err != nil || o.status != http.StatusOK {
		t.Errorf("the job got %+v", o)
	}
	checkStatus(t, s, "0")
}

// TestAgent18_Configuration: the request is down to a commit id, which is empty at first.
func TestAgent18_Configuration(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-18", "grpc")
	s := a.call(t, getConfiguration)
	s.last(a.says.message(t, "configuration"))
	checkConfiguration(t, s)
	if got := a.unary(t, register, "register"); len(got) != 0 {
		t.Errorf("Register answers %x", got)
	}
	eventually(t, "registration by the registrar alone", func() bool { return k.registered(t, "v18.6.0", 1) })
	a.unary(t, unregister, "unregister")
	if !k.registered(t, "v18.6.0", 0) {
		t.Error("the agent stays registered")
	}
}

// TestAgent18_RepeatedHeaders: the agent says its kind and serves more than is asked of it; a header name comes twice.
func TestAgent18_RepeatedHeaders(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-18", "ws")
	s := a.call(t, connect, "rpc-kind")
	s.send(a.says.message(t, "descriptor"))
	answered := k.ask(t, "/version")
	a.request(t, s)
	a.respond(t, s)
	o := <-answered
	if o.err != nil || o.status != http.StatusOK {
		t.Fatalf("the job got %+v", o)
	}
	if got := o.header.Values("Warning"); !slices.Equal(got, []string{`299 - "one"`, `299 - "two"`}) {
		t.Errorf("Warning: %q", got)
	}
	checkStatus(t, s, "0")
}

// TestAgent18_ServicesOfOthers: what this kas does not serve is told as such, at once, and costs nothing else.
func TestAgent18_ServicesOfOthers(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-18", "ws")
	for _, method := range []string{
		"/gitlab.agent.flux.rpc.GitLabFlux/ReconcileProjects",
		"/gitlab.agent.job_router.rpc.JobRouter/GetJob",
		"/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Rename",
	} {
		s := a.call(t, method)
		s.last(nil)
		e := s.next(t)
		if !e.end || value(e.fields, ":status") != "200" || value(e.fields, "grpc-status") != "12" {
			t.Errorf("%s: %+v", method, e)
		}
	}
	if got := a.unary(t, register, "register"); len(got) != 0 {
		t.Errorf("Register answers %x", got)
	}
}

// TestAgent_Retired: after its share of the connection's age, a GOAWAY is followed by the orderly end of what only waits.
func TestAgent_Retired(t *testing.T) {
	for _, version := range []string{"agent-15", "agent-16.6", "agent-17", "agent-18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			k := startKas(t, "3s")
			a := dial(t, k, version, "ws")
			parked := a.park(t, 2)
			configuration := a.call(t, getConfiguration)
			configuration.last(a.says.message(t, "configuration"))
			checkConfiguration(t, configuration)
			checkStatus(t, configuration, "0")
			for _, s := range parked {
				e := s.next(t)
				if !e.end || value(e.fields, "grpc-status") != "0" {
					t.Errorf("an idle tunnel ends with %+v", e)
				}
			}
			select {
			case <-a.goAway:
			case <-time.After(patience):
				t.Error("no GOAWAY")
			}
		})
	}
}

// TestAgent_Unauthenticated: who has no token, or a wrong one, is told in the words that agents put into their logs.
func TestAgent_Unauthenticated(t *testing.T) {
	k := startKas(t, "7200s")
	for _, version := range []string{"agent-15", "agent-16.6", "agent-17", "agent-18"} {
		a := dial(t, k, version, "ws")
		for credential, want := range map[string]string{"Bearer glagent-wrong": "unauthenticated", "": "Request unauthenticated with bearer"} {
			fields := a.says.fields(t, "rpc", "{method}", getConfiguration, "{authority}", a.authority)
			fields = fields[:len(fields)-1]
			if credential != "" {
				fields = append(fields, field("authorization", credential))
			}
			s := a.open(fields)
			s.last(a.says.message(t, "configuration"))
			e := s.next(t)
			if !e.end || value(e.fields, "grpc-status") != "16" || !strings.HasPrefix(value(e.fields, "grpc-message"), want) {
				t.Errorf("%s, credential %q: %+v", version, credential, e)
			}
		}
	}
}
