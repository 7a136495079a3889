package main

// Numbers in GitLab, as they appear in names of users and groups in the cluster.
const (
	acmeID   = 5
	infraID  = 31
	shopID   = 42
	internID = 43
	// Jobs by pipeline and name.
	deployJob, snoopJob     = 9001, 9002
	refusedJob, allowedJob  = 9003, 9004
	maintainer, ciUser      = "maintainer", "ci-user"
	infra, shop, intern     = "acme/infra", "acme/shop", "acme/intern"
	agentName, shopsContext = "demo", "acme/infra:demo"
)

// agentConfig lets jobs of acme/shop in, each under a name of its own, and its developers under theirs.
const agentConfig = `user_access:
  access_as:
    user: {}
  projects:
    - id: acme/shop
ci_access:
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

// shopPipeline deploys, and then reaches for more than it may.
const shopPipeline = `stages: [deploy, snoop]

deploy:
  stage: deploy
  environment:
    name: production
  script:
    - kubectl config get-contexts
    - kubectl config use-context acme/infra:demo
    - kubectl auth whoami
    - kubectl apply -f release.yaml
    - kubectl get configmap release -o yaml
    - kubectl delete configmap release

snoop:
  stage: snoop
  allow_failure: true
  script:
    - kubectl --context acme/infra:demo get secrets --namespace kube-system
`

// release is what the job deploys.
const release = `{apiVersion: v1, kind: ConfigMap, metadata: {name: release}, data: {version: "1"}}
`

// internPipeline uses the kubeconfig if there is one, and otherwise tries without.
const internPipeline = `deploy:
  script:
    - echo "KUBECONFIG is '$KUBECONFIG'"
    - if [ -n "$KUBECONFIG" ]; then kubectl --context acme/infra:demo auth whoami; fi
    - if [ -z "$KUBECONFIG" ]; then kubectl --server %[1]s --token "ci:%[2]d:$CI_JOB_TOKEN" get --raw /version; fi
`

// besideGitLab is laid over the configuration of kas: it stands beside a GitLab instead of on its own. Caches are short for the demo.
const besideGitLab = `
standalone: null
gitlab: {address: %[1]q, authentication_secret_file: %[2]q}
redis: {server: {address: %[5]q}}
api: {listen: {network: unix, address: %[3]q, authentication_secret_file: %[2]q, listen_grace_period: 0.2s}}
private_api: {listen: {network: unix, address: %[4]q, authentication_secret_file: %[2]q, listen_grace_period: 0.2s}}
agent: {info_cache_ttl: 2s, info_cache_error_ttl: 1s}
`
