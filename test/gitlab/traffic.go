package gitlab

import (
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Endpoint names a group of requests, for faults and records.
type Endpoint string

// Endpoints. Both paths of agent_info are one endpoint.
const (
	AgentInfo           Endpoint = "agent_info"
	ProjectInfo         Endpoint = "project_info"
	VerifyProjectAccess Endpoint = "verify_project_access"
	AgentConfiguration  Endpoint = "agent_configuration"
	AuthorizeProxyUser  Endpoint = "authorize_proxy_user"
	UsageMetrics        Endpoint = "usage_metrics"
	AgentEvents         Endpoint = "agent_events"
	ReceptiveAgents     Endpoint = "receptive_agents"
	Modules             Endpoint = "modules"
	AllowedAgents       Endpoint = "allowed_agents"
	PublicAPI           Endpoint = "public"
	GitHTTP             Endpoint = "git"
	Unknown             Endpoint = "unknown"
)

// Fault is how an endpoint misbehaves. The zero value changes nothing.
type Fault struct {
	// Status replaces the usual answer by an error with this status. A status below 300 only replaces that of the usual answer.
	Status int
	// Message is in the body of such an error; default the status text.
	Message string
	// RetryAfter is that header's value.
	RetryAfter string
	// Delay is waited before anything else, Hang until the client goes away.
	Delay time.Duration
	Hang  bool
	// Cut closes the connection without an answer.
	Cut bool
	// Body replaces the usual answer's, and ContentType its media type.
	Body        []byte
	ContentType string
	// Pad adds that many bytes to the JSON object that is the usual answer, in a key nobody knows.
	Pad int
	// Times is how many requests it hits, 0: all until Mend.
	Times int
}

// Malformed answers with something that is JSON no more.
func Malformed() Fault {
	return Fault{Status: http.StatusOK, Body: []byte(`{"agent_id": 7, "allowed_agents": [{`)}
}

// Huge answers as usual, in 10 MB more.
func Huge() Fault { return Fault{Pad: 10_000_000} }

// Request is one that was received.
type Request struct {
	Endpoint Endpoint
	At       time.Time
	Method   string
	// Path is as it was sent, below the path prefix and without the query.
	Path   string
	Query  url.Values
	Header http.Header
	Body   []byte
	// Status is that of the answer, 0 as long as there is none.
	Status int
}

// recordLimit is how many requests are remembered.
const recordLimit = 10_000

// traffic is what comes in, and how it is disturbed.
type traffic struct {
	stopped  chan struct{}
	stopOnce *sync.Once
	handlers *sync.WaitGroup

	// mu guards faults and requests.
	mu       *sync.Mutex
	faults   map[Endpoint]*Fault
	requests *[]*Request
}

func newTraffic() traffic {
	return traffic{
		stopped: make(chan struct{}), stopOnce: &sync.Once{}, handlers: &sync.WaitGroup{},
		mu: &sync.Mutex{}, faults: map[Endpoint]*Fault{}, requests: &[]*Request{},
	}
}

// stop lets requests that hang go.
func (t *traffic) stop() { t.stopOnce.Do(func() { close(t.stopped) }) }

// wait waits for the handlers of all requests.
func (t *traffic) wait() { t.handlers.Wait() }

// Break makes an endpoint misbehave, in place of any fault that it had.
func (g *GitLab) Break(e Endpoint, f Fault) {
	g.traffic.mu.Lock()
	defer g.traffic.mu.Unlock()
	g.traffic.faults[e] = &f
}

// Mend ends the misbehaviour of an endpoint.
func (g *GitLab) Mend(e Endpoint) {
	g.traffic.mu.Lock()
	defer g.traffic.mu.Unlock()
	delete(g.traffic.faults, e)
}

// Requests are those an endpoint received, oldest first.
func (g *GitLab) Requests(e Endpoint) []Request {
	g.traffic.mu.Lock()
	defer g.traffic.mu.Unlock()
	var found []Request
	for _, r := range *g.traffic.requests {
		if r.Endpoint == e {
			found = append(found, *r)
		}
	}
	return found
}

// ForgetRequests empties the record.
func (g *GitLab) ForgetRequests() {
	g.traffic.mu.Lock()
	defer g.traffic.mu.Unlock()
	*g.traffic.requests = nil
}

// record remembers a request and returns the fault that it meets.
func (t *traffic) record(r *Request) Fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	*t.requests = append(*t.requests, r)
	if excess := len(*t.requests) - recordLimit; excess > 0 {
		*t.requests = slices.Delete(*t.requests, 0, excess)
	}
	f := t.faults[r.Endpoint]
	if f == nil {
		return Fault{}
	}
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(t.faults, r.Endpoint)
		}
	}
	return *f
}

func (t *traffic) answered(r *Request, status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Status = status
}
