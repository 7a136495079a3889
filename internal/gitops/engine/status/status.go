// Package status shows people what a synchronisation did: a ConfigMap with the state of every object, and Kubernetes Events that point at
// it. Both are read with kubectl, or with "agentk gitops status", which uses the types of this package.
//
// It imports nothing but the standard library, since agentk reads with it; package publish writes.
//
// The ConfigMap stays when a project is taken out of the configuration, as its objects do: it then tells of the last synchronisation. It never
// says for long that one goes on which does not, unless the engine was killed and none came after it.
package status

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// DataKey is the ConfigMap's key that holds a Document.
const DataKey = "status.json"

// Label marks status ConfigMaps; its value is the agent's id.
const Label = "agentk.gitlab.com/gitops-status"

// maxBytes bounds the document: a ConfigMap holds a mebibyte with everything around it.
const maxBytes = 900 << 10

// maxText bounds one message or error.
const maxText = 2 << 10

// Name is the ConfigMap's: id is "<agent id>-<project id>", or that of a chart's inventory.
func Name(id string) string { return "gitops-status-" + id }

// State is how a synchronisation stands.
type State string

// The states. Stopped is a synchronisation that was cut short, and that no other followed so far: its unit was taken out of the
// configuration, its options were changed, or the agent ended. Error then says why. What was applied before stays.
const (
	Running   State = "Running"
	Succeeded State = "Succeeded"
	Failed    State = "Failed"
	Stopped   State = "Stopped"
)

// Document is what DataKey holds.
type Document struct {
	// Unit is the project's path or the release's name, as configured.
	Unit  string `json:"unit,omitempty"`
	State State  `json:"state"`
	// Commit is what was, or is being, synchronised.
	Commit string `json:"commit"`
	// Reason of the pass: commit, interval, watch or retry.
	Reason string `json:"reason"`
	// Started and Finished are when; no Finished: it goes on.
	Started  time.Time  `json:"started"`
	Finished *time.Time `json:"finished,omitempty"`
	// Error is what went wrong, or why it was stopped.
	Error     string `json:"error,omitempty"`
	UserError bool   `json:"userError,omitempty"`
	// LastSuccess is the newest commit that was synchronised without error, by this engine.
	LastSuccess string `json:"lastSuccess,omitempty"`
	DryRun      string `json:"dryRun,omitempty"`
	Inventory   string `json:"inventory,omitempty"`
	Counts      Counts `json:"counts"`
	// Objects are sorted: those with an error first, then by name.
	Objects []Object `json:"objects"`
	// Omitted is the number of objects that the document had no room for. They are fine unless Counts says otherwise.
	Omitted int `json:"omitted,omitempty"`
}

// Counts sums up the objects.
type Counts struct {
	Applied   int32 `json:"applied"`
	Pruned    int32 `json:"pruned"`
	Unchanged int32 `json:"unchanged"`
	Skipped   int32 `json:"skipped"`
	Failed    int32 `json:"failed"`
}

// Object is one object's state.
type Object struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// File and Line are where it stands in the repository.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Action is apply or prune; Result is pending, succeeded, skipped or failed.
	Action string `json:"action"`
	Result string `json:"result"`
	// Status is Current, InProgress, Failed, Terminating, NotFound or Unknown.
	Status string `json:"status,omitempty"`
	// Message explains Status; Error says why Result is not succeeded, or what Status should have been.
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Encode makes the document fit. Objects without error are left out first, from the end of the list.
func Encode(d Document) ([]byte, error) {
	d.Error = shorten(d.Error)
	d.Objects = slices.Clone(d.Objects)
	for i := range d.Objects {
		d.Objects[i].Message, d.Objects[i].Error = shorten(d.Objects[i].Message), shorten(d.Objects[i].Error)
	}
	slices.SortFunc(d.Objects, compare)
	data, err := json.Marshal(d)
	for err == nil && len(data) > maxBytes {
		keep := len(d.Objects) * maxBytes / len(data) * 9 / 10
		d.Omitted += len(d.Objects) - keep
		d.Objects = d.Objects[:keep]
		data, err = json.Marshal(d)
	}
	return data, err
}

func compare(a, b Object) int {
	if (a.Error == "") != (b.Error == "") {
		if a.Error != "" {
			return -1
		}
		return 1
	}
	return slices.Compare([]string{a.Namespace, a.Kind, a.Name, a.Group}, []string{b.Namespace, b.Kind, b.Name, b.Group})
}

// shorten cuts a text at a character's end.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}
