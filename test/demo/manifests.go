package main

// Numbers of the standalone backend, as they appear in names of users and groups in the cluster.
const (
	agentName   = "demo"
	agentID     = 7
	infraID     = 31
	shopID      = 42
	internID    = 43
	acmeID      = 5
	shopJob     = 9001
	internJob   = 9002
	shopUser    = "gitlab:ci_job:9001"
	shopContext = "acme/infra:demo"
)

// agentConfig lets jobs of acme/shop in, each under a name of its own.
const agentConfig = `ci_access:
  projects:
    - id: acme/shop
      default_namespace: shop
      access_as:
        ci_job: {}
`

// widerConfig adds acme/intern.
const widerConfig = agentConfig + `    - id: acme/intern
      access_as:
        ci_job: {}
`

// jobRights is what the cluster's administrator grants to jobs of project 42 (acme/shop), and to nobody else.
const jobRights = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deploy, namespace: shop}, rules: [
  {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, update, patch, delete]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deploy, namespace: shop},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deploy},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "gitlab:project:42"}]}
`

// release is what the job deploys.
const release = `{apiVersion: v1, kind: ConfigMap, metadata: {name: release}, data: {version: "%d"}}`
