package line

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"gopkg.in/yaml.v3"
)

type object = map[string]any

// prefix is below which path the Kubernetes proxy answers, as Omnibus has it.
const prefix = "/k8s-proxy/"

// writeKasFiles writes the configuration file of every kas.
func (l *Line) writeKasFiles() error {
	for _, r := range l.Replicas {
		if err := l.writeKasFile(r); err != nil {
			return err
		}
	}
	return nil
}

// writeKasFile replaces the file in one step, as kas reads it again on every change.
func (l *Line) writeKasFile(r *Replica) error {
	proxy := l.listenSection(r.ProxyAddress, !l.cfg.PlainProxy, object{"shutdown_grace_period": "2s"})
	file := object{
		"agent": object{
			"listen":         l.listenSection(r.AgentAddress, l.cfg.Scheme == WSS || l.cfg.Scheme == GRPCS, object{"websocket": true}),
			"kubernetes_api": object{"listen": proxy, "url_path_prefix": prefix},
		},
		"observability": object{"listen": object{"network": "unix", "address": r.socket()}},
		"standalone":    l.standaloneSection(),
	}
	for _, text := range []string{l.cfg.ExtraKasYAML, r.cfg.ExtraYAML} {
		var extra object
		if err := yaml.Unmarshal([]byte(text), &extra); err != nil {
			return fmt.Errorf("extra configuration of %s: %w", r.Name, err)
		}
		merge(file, extra)
	}
	content, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	fresh := r.File + ".new"
	if err := os.WriteFile(fresh, content, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, r.File)
}

// listenSection has a short grace period: nothing balances load here that would have to notice first.
func (l *Line) listenSection(address string, tls bool, more object) object {
	section := object{"address": address, "listen_grace_period": "0.2s"}
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

// MergeYAML lays one YAML document over another, key by key; lists are replaced.
func MergeYAML(under, over string) (string, error) {
	var a, b object
	if err := errors.Join(yaml.Unmarshal([]byte(under), &a), yaml.Unmarshal([]byte(over), &b)); err != nil {
		return "", err
	}
	if a == nil {
		a = object{}
	}
	merge(a, b)
	content, err := yaml.Marshal(a)
	return string(content), err
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
