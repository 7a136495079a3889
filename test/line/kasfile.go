package line

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"time"

	"gopkg.in/yaml.v3"
)

type object = map[string]any

// prefix is below which path the Kubernetes proxy answers, as Omnibus has it.
const prefix = "/k8s-proxy/"

// writeKasFile writes the configuration file of kas. It replaces the file in one step, as kas reads it again on every change.
func (l *Line) writeKasFile() error {
	file := object{
		"agent": object{
			"listen":         l.listenSection(l.agentPort, l.cfg.Scheme == WSS || l.cfg.Scheme == GRPCS, object{"websocket": true}),
			"kubernetes_api": object{"listen": l.listenSection(l.proxyPort, !l.cfg.PlainProxy, object{"shutdown_grace_period": "2s"}), "url_path_prefix": prefix},
		},
		"observability": object{"listen": object{"network": "unix", "address": l.path("kas.sock")}},
		"standalone":    l.standaloneSection(),
	}
	var extra object
	if err := yaml.Unmarshal([]byte(l.cfg.ExtraKasYAML), &extra); err != nil {
		return fmt.Errorf("ExtraKasYAML: %w", err)
	}
	merge(file, extra)
	content, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	fresh := l.KasFile + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, l.KasFile)
}

// listenSection has a short grace period: nothing balances load here that would have to notice first.
func (l *Line) listenSection(port string, tls bool, more object) object {
	section := object{"address": net.JoinHostPort(l.cfg.Host, port), "listen_grace_period": "0.2s"}
	if tls {
		section["certificate_file"], section["key_file"] = l.certificate, l.key
	}
	merge(section, more)
	return section
}

func (l *Line) standaloneSection() object {
	section := object{"repositories_dir": l.repositories.dir, "kubernetes_api_url": l.ProxyURL}
	var projects, agents, jobs []object
	for _, p := range l.cfg.Projects {
		var groups []object
		for _, g := range p.Groups {
			groups = append(groups, object{"id": g.ID, "path": g.Path})
		}
		projects = append(projects, object{"id": p.ID, "path": p.Path, "groups": groups, "visibility": p.Visibility})
	}
	for _, a := range l.cfg.Agents {
		if a.PodOf != "" {
			continue
		}
		hashes := []string{}
		if !a.Revoked {
			hashes = append(hashes, hashToken(a.Token))
		}
		agents = append(agents, object{
			"id": a.ID, "name": a.Name, "project": a.Project, "token_sha256": hashes, "gitops_projects": a.GitOpsProjects,
		})
	}
	for _, j := range l.cfg.Jobs {
		jobs = append(jobs, j.section())
	}
	section["projects"], section["agents"], section["jobs"] = projects, agents, jobs
	return section
}

func (j *Job) section() object {
	section := object{
		"id": j.ID, "token_sha256": hashToken(j.Token), "pipeline": j.Pipeline, "project": j.Project,
		"user": object{"id": 3, "username": j.User}, "ref_protected": j.RefProtected,
	}
	if e := j.Environment; e != nil {
		section["environment"] = object{"name": e.Name, "slug": e.Slug, "tier": e.Tier}
	}
	if !j.ExpiresAt.IsZero() {
		section["expires_at"] = j.ExpiresAt.UTC().Format(time.RFC3339Nano)
	}
	return section
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// merge lays one object over another.
func merge(under, over object) {
	for key, value := range over {
		a, ok := under[key].(object)
		b, both := value.(object)
		if ok && both {
			merge(a, b)
			continue
		}
		under[key] = value
	}
}
