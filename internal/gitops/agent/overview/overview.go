// Package overview reads what the GitOps engine leaves in a cluster about its synchronisations, and prints it for people.
package overview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
	"gitlab.com/agentk/agentk/internal/kuberest"
)

// Sync is the newest known state of one manifest project or chart.
type Sync struct {
	Namespace string `json:"namespace"`
	// Name is that of the ConfigMap.
	Name    string `json:"name"`
	AgentID int64  `json:"agentId"`
	status.Document
}

// ProjectID is the numeric id of the manifest project; false: it is a chart's state.
func (s Sync) ProjectID() (int64, bool) {
	text, found := strings.CutPrefix(s.Name, status.Name(strconv.FormatInt(s.AgentID, 10)+"-"))
	id, err := strconv.ParseInt(text, 10, 64)
	return id, found && err == nil
}

// Filter says what is wanted; its zero value wants everything.
type Filter struct {
	Namespace string
	// Unit is the path of a project or the name of a release.
	Unit string
	// AgentID is the numeric id of the agent.
	AgentID int64
}

// configMaps is a list of ConfigMaps, as far as it is read here.
type configMaps struct {
	Items []struct {
		Metadata struct {
			Namespace string            `json:"namespace"`
			Name      string            `json:"name"`
			Labels    map[string]string `json:"labels"`
		} `json:"metadata"`
		Data map[string]string `json:"data"`
	} `json:"items"`
}

// List reads the states, by namespace and name.
func List(ctx context.Context, client rest.Interface, f Filter) ([]Sync, error) {
	where := "/api/v1/configmaps"
	if f.Namespace != "" {
		where = path.Join("/api/v1/namespaces", f.Namespace, "configmaps")
	}
	selector := status.Label
	if f.AgentID != 0 {
		selector += "=" + strconv.FormatInt(f.AgentID, 10)
	}
	list := &configMaps{}
	answer, err := kuberest.Answer(client.Get().AbsPath(where).Param("labelSelector", selector).Do(ctx))
	if err == nil {
		err = json.Unmarshal(answer, list)
	}
	if apierrors.IsForbidden(err) && f.Namespace == "" {
		return nil, fmt.Errorf("you may not read all namespaces, try --namespace: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the states of synchronisations: %w", err)
	}
	var all []Sync
	for _, m := range list.Items {
		s := Sync{Namespace: m.Metadata.Namespace, Name: m.Metadata.Name}
		if err := json.Unmarshal([]byte(m.Data[status.DataKey]), &s.Document); err != nil {
			return nil, fmt.Errorf("ConfigMap %s/%s: %w", m.Metadata.Namespace, m.Metadata.Name, err)
		}
		if s.AgentID, err = strconv.ParseInt(m.Metadata.Labels[status.Label], 10, 64); err != nil {
			return nil, fmt.Errorf("ConfigMap %s/%s has no agent in its label %s", m.Metadata.Namespace, m.Metadata.Name, status.Label)
		}
		if f.Unit == "" || f.Unit == s.Unit {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Sync) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return all, nil
}

// JSON prints the states with all they say.
func JSON(w io.Writer, all []Sync) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(append([]Sync{}, all...))
}

// Table prints a line for each state, and the objects that are not fine; with objects set, all.
func Table(w io.Writer, all []Sync, now time.Time, objects bool) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "NAMESPACE\tUNIT\tAGENT\tSTATE\tCOMMIT\tAPPLIED\tPRUNED\tUNCHANGED\tSKIPPED\tFAILED\tAGE")
	for _, s := range all {
		c := s.Counts
		fmt.Fprintf(out, "%s\t%s\t%d\t%s\t%.12s\t%d\t%d\t%d\t%d\t%d\t%s\n", s.Namespace, s.Unit, s.AgentID, s.State, s.Commit,
			c.Applied, c.Pruned, c.Unchanged, c.Skipped, c.Failed, age(s, now))
	}
	err := out.Flush()
	for _, s := range all {
		err = errors.Join(err, detail(w, s, objects))
	}
	return err
}

func age(s Sync, now time.Time) string {
	at := s.Started
	if s.Finished != nil {
		at = *s.Finished
	}
	if at.IsZero() || at.After(now) {
		return "0s"
	}
	return now.Sub(at).Round(time.Second).String()
}

// detail prints what is behind a line of the table.
func detail(w io.Writer, s Sync, objects bool) error {
	shown := slices.DeleteFunc(slices.Clone(s.Objects), func(o status.Object) bool { return !objects && o.Error == "" })
	if s.Error == "" && len(shown) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s:\n", s.Unit)
	if s.Error != "" {
		fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(s.Error, "\n", "\n  "))
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range shown {
		where := o.File
		if o.Line > 0 {
			where += ":" + strconv.Itoa(o.Line)
		}
		reason := o.Error
		if reason == "" {
			reason = o.Message
		}
		fmt.Fprintf(out, "  %s\t%s\t%s\t%s\t%s\t%s\n", title(o), o.Action, o.Result, o.Status, where, strings.ReplaceAll(reason, "\n", " "))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if s.Omitted > 0 {
		_, err := fmt.Fprintf(w, "  and %d more\n", s.Omitted)
		return err
	}
	return nil
}

func title(o status.Object) string {
	kind := o.Kind
	if o.Group != "" {
		kind += "." + o.Group
	}
	return path.Join(o.Namespace, kind, o.Name)
}
