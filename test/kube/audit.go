package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// auditPoll is how often WaitAudit reads the log again.
const auditPoll = 20 * time.Millisecond

// AuditEvent is what the API server noted about one request.
type AuditEvent struct {
	AuditID          string            `json:"auditID"`
	Stage            string            `json:"stage"` // ResponseStarted (long-running requests only), ResponseComplete or Panic
	Verb             string            `json:"verb"`
	RequestURI       string            `json:"requestURI"`
	UserAgent        string            `json:"userAgent"`
	SourceIPs        []string          `json:"sourceIPs"`
	User             AuditUser         `json:"user"`             // who authenticated
	ImpersonatedUser *AuditUser        `json:"impersonatedUser"` // on whose behalf; nil without impersonation
	ObjectRef        AuditObject       `json:"objectRef"`
	ResponseStatus   AuditStatus       `json:"responseStatus"`
	Annotations      map[string]string `json:"annotations"`
	RequestObject    json.RawMessage   `json:"requestObject"`  // from level Request on
	ResponseObject   json.RawMessage   `json:"responseObject"` // level RequestResponse only
}

// AuditUser is an identity.
type AuditUser struct {
	Username string              `json:"username"`
	UID      string              `json:"uid"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

// AuditObject is what a request was about.
type AuditObject struct {
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
}

// AuditStatus is how a request was answered.
type AuditStatus struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// AuditEvents returns all requests the API server has noted so far, oldest first. A request is noted about when it is answered: to
// look for one just made, use WaitAudit.
func (cp *ControlPlane) AuditEvents() ([]AuditEvent, error) {
	content, err := os.ReadFile(cp.AuditLog)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	var events []AuditEvent
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // still being written
		}
		var event AuditEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		events = append(events, event)
	}
	return events, nil
}

// WaitAudit returns the first noted request that matches, waiting for it until ctx ends.
func (cp *ControlPlane) WaitAudit(ctx context.Context, match func(AuditEvent) bool) (AuditEvent, error) {
	tick := time.NewTicker(auditPoll)
	defer tick.Stop()
	for {
		events, err := cp.AuditEvents()
		if err != nil {
			return AuditEvent{}, err
		}
		for _, event := range events {
			if match(event) {
				return event, nil
			}
		}
		select {
		case <-ctx.Done():
			return AuditEvent{}, fmt.Errorf("no such request among %d in the audit log: %w", len(events), ctx.Err())
		case <-tick.C:
		}
	}
}

// writeAuditPolicy notes every request once, when it is answered, and long-running ones also when their answer begins.
func (cp *ControlPlane) writeAuditPolicy() error {
	if cp.cfg.Audit == "" {
		return nil
	}
	policy := fmt.Sprintf(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: %s
`, cp.cfg.Audit)
	cp.AuditLog = filepath.Join(cp.Dir, "logs", "audit.jsonl")
	if err := os.WriteFile(cp.AuditLog, nil, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cp.Dir, "pki", "audit-policy.yaml"), []byte(policy), 0o600)
}
