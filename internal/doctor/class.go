package doctor

// Class is a kind of causes; each has an exit code of its own.
type Class string

// Classes.
const (
	Network       Class = "network"
	TLS           Class = "tls"
	HTTP          Class = "http"
	Token         Class = "token"
	Clock         Class = "clock"
	Kubernetes    Class = "kubernetes"
	Configuration Class = "configuration"
	Dependency    Class = "dependency"
	Agent         Class = "agent"
)

// ExitUsage is the exit code for a command line that is wrong.
const ExitUsage = 1

// exitCodes are promised to scripts: README.md lists them.
var exitCodes = map[Class]int{
	Network: 10, TLS: 11, HTTP: 12, Token: 13, Clock: 14, Kubernetes: 15, Configuration: 16, Dependency: 17, Agent: 18,
}

// Cause is an entry of the catalogue.
type Cause struct {
	// ID is also the anchor of the cause in README.md.
	ID    string
	Class Class
	// Text says what is wrong, Fix what to do about it, both in general.
	Text, Fix string
}

// page is where users read about the causes.
const page = "https://gitlab.com/agentk/agentk/-/blob/main/internal/doctor/README.md"

// Reference is the cause's place on the page.
func (c Cause) Reference() string { return page + "#" + c.ID }

// Catalogue returns all causes, in the order of README.md.
func Catalogue() []Cause {
	var all []Cause
	for _, part := range [][]Cause{networkCauses, tlsCauses, httpCauses, tokenCauses, kubernetesCauses, configurationCauses, dependencyCauses} {
		all = append(all, part...)
	}
	return all
}

// causeOf finds an entry. An ID that is not there is a mistake of the program and still reported as a failure.
func causeOf(id string) Cause {
	for _, c := range Catalogue() {
		if c.ID == id {
			return c
		}
	}
	return Cause{ID: id, Class: Configuration, Text: "something is wrong that this program has no words for"}
}
