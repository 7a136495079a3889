// Package beside holds the real daemons, kas and agentk as processes in front of a real Kubernetes API, to what they promise beside a
// GitLab that is slow, wrong, refusing or gone: what was good stays in use, what is cached is served, and what was revoked is cut off.
package beside
