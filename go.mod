module gitlab.com/agentk/agentk

go 1.26.0

require (
	github.com/bmatcuk/doublestar/v4 v4.10.4 // the globs of GitOps paths
	github.com/bufbuild/protocompile v0.14.1 // compiles api/*.proto for "make gen" without protoc
	github.com/fsnotify/fsnotify v1.10.1 // notices changed configuration, certificate and repository files
	github.com/go-git/go-billy/v5 v5.9.2 // the file system that go-git reads through
	github.com/go-git/go-git/v5 v5.19.3 // reads bare repositories of the standalone backend
	github.com/go-logr/logr v1.4.4 // carries the Kubernetes libraries' log lines into ours
	github.com/golang-jwt/jwt/v5 v5.3.1 // signs and checks the tokens between GitLab and kas
	github.com/google/go-cmp v0.7.0 // readable differences in tests
	github.com/gorilla/websocket v1.5.4-0.20250319132907-e064f32e3674 // WebSocket with settable buffers
	github.com/pmezard/go-difflib v1.0.1-0.20181226105442-5d4384ee4fb2 // unified differences of objects for "agentk gitops diff"
	github.com/prometheus/client_golang v1.25.0 // metrics
	github.com/redis/go-redis/v9 v9.23.0 // the store that replicas of kas share: server, sentinel, cluster
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // checks charts' values without fetching schemas
	github.com/spf13/cobra v1.10.2 // command lines
	github.com/spf13/pflag v1.0.10 // flag sets shared with client-go
	go.uber.org/goleak v1.3.0 // finds goroutines that tests leave behind
	go.uber.org/zap v1.28.0 // structured logs
	golang.org/x/crypto/x509roots/fallback v0.0.0-20261030153154-30a33513ff6d // the CA bundle of the images
	golang.org/x/net v0.60.0 // proxy environment rules; raw HTTP/2 frames in tests
	golang.org/x/sync v0.23.0 // single-flight look-ups
	golang.org/x/sys v0.48.0 // file locks of the test bed
	golang.org/x/time v0.15.0 // token buckets before GitLab and Gitaly
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // google.rpc.Status of the tunnel protocol
	google.golang.org/grpc v1.85.0 // the protocol between agentk and kas
	google.golang.org/protobuf v1.36.12 // messages of that protocol
	gopkg.in/yaml.v3 v3.0.1 // configuration files with line numbers
	helm.sh/helm/v3 v3.22.0 // renders charts and writes release records, in the GitOps engine
	k8s.io/api v0.37.2 // Kubernetes objects: Events, TokenRequest
	k8s.io/apimachinery v0.37.2 // Kubernetes Status and errors
	k8s.io/cli-runtime v0.37.2 // clients in the form that cli-utils takes them
	k8s.io/client-go v0.37.2 // the agent's way to its API server
	k8s.io/klog/v2 v2.140.0 // the Kubernetes libraries' log, redirected
	k8s.io/streaming v0.37.2 // the far end of a port-forward, in the benchmarks
	pgregory.net/rapid v1.3.0 // model tests of the tunnel registry
	sigs.k8s.io/cli-utils v0.37.2 // applies, prunes and waits: the GitOps engine
	sigs.k8s.io/json v0.0.0-20250730193827-2d320260d730 // reads JSON as the API server does, and finds duplicate keys
	sigs.k8s.io/kustomize/api v0.21.1 // builds kustomizations on a tree in memory
	sigs.k8s.io/kustomize/kyaml v0.21.1 // the file system in memory that kustomize reads
	sigs.k8s.io/yaml v1.6.0 // YAML answers for clients that ask for them
)

require (
	dario.cat/mergo v1.0.1 // indirect
	github.com/Azure/go-ansiterm v0.0.0-20250102033503-faa5f7b0171c // indirect
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/MakeNowJust/heredoc v1.0.0 // indirect
	github.com/Masterminds/goutils v1.1.1 // indirect
	github.com/Masterminds/semver/v3 v3.5.0 // indirect
	github.com/Masterminds/sprig/v3 v3.3.0 // indirect
	github.com/Masterminds/squirrel v1.5.4 // indirect
	github.com/Microsoft/go-winio v0.6.2 // indirect
	github.com/ProtonMail/go-crypto v1.4.1 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/blang/semver/v4 v4.0.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/chai2010/gettext-go v1.0.2 // indirect
	github.com/cloudflare/circl v1.6.3 // indirect
	github.com/cpuguy83/go-md2man/v2 v2.0.6 // indirect
	github.com/cyphar/filepath-securejoin v0.7.0 // indirect
	github.com/davecgh/go-spew v1.1.2-0.20180830191138-d8f796af33cc // indirect
	github.com/emicklei/go-restful/v3 v3.13.0 // indirect
	github.com/emirpasic/gods v1.18.1 // indirect
	github.com/evanphx/json-patch/v5 v5.9.0 // indirect
	github.com/exponent-io/jsonpath v0.0.0-20210407135951-1de76d718b3f // indirect
	github.com/fatih/camelcase v1.0.0 // indirect
	github.com/fxamacker/cbor/v2 v2.9.1 // indirect
	github.com/go-errors/errors v1.4.2 // indirect
	github.com/go-git/gcfg v1.5.1-0.20230307220236-3a3c6141e376 // indirect
	github.com/go-gorp/gorp/v3 v3.1.0 // indirect
	github.com/go-openapi/jsonpointer v1.0.0 // indirect
	github.com/go-openapi/jsonreference v1.0.0 // indirect
	github.com/go-openapi/swag v0.27.1 // indirect
	github.com/go-openapi/swag/cmdutils v0.27.1 // indirect
	github.com/go-openapi/swag/conv v0.27.1 // indirect
	github.com/go-openapi/swag/fileutils v0.27.1 // indirect
	github.com/go-openapi/swag/jsonutils v0.27.1 // indirect
	github.com/go-openapi/swag/loading v0.27.1 // indirect
	github.com/go-openapi/swag/mangling v0.27.1 // indirect
	github.com/go-openapi/swag/netutils v0.27.1 // indirect
	github.com/go-openapi/swag/pools v0.27.1 // indirect
	github.com/go-openapi/swag/stringutils v0.27.1 // indirect
	github.com/go-openapi/swag/typeutils v0.27.1 // indirect
	github.com/go-openapi/swag/yamlutils v0.27.1 // indirect
	github.com/gobwas/glob v0.2.3 // indirect
	github.com/golang/groupcache v0.0.0-20241129210726-2c02b8208cf8 // indirect
	github.com/google/btree v1.1.3 // indirect
	github.com/google/gnostic-models v0.7.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/huandu/xstrings v1.5.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/jbenet/go-context v0.0.0-20150711004518-d14ea06fba99 // indirect
	github.com/jmoiron/sqlx v1.4.0 // indirect
	github.com/jonboulle/clockwork v0.5.0 // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/kevinburke/ssh_config v1.2.0 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/lann/builder v0.0.0-20180802200727-47ae307949d0 // indirect
	github.com/lann/ps v0.0.0-20150810152359-62de8c46ede0 // indirect
	github.com/lib/pq v1.12.3 // indirect
	github.com/liggitt/tabwriter v0.0.0-20181228230101-89fcab3d43de // indirect
	github.com/mitchellh/copystructure v1.2.0 // indirect
	github.com/mitchellh/go-wordwrap v1.0.1 // indirect
	github.com/mitchellh/reflectwalk v1.0.2 // indirect
	github.com/moby/spdystream v0.5.1 // indirect
	github.com/moby/term v0.5.2 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.3-0.20250322232337-35a7c28c31ee // indirect
	github.com/monochromegane/go-gitignore v0.0.0-20200626010858-205db1a8cc00 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/peterbourgon/diskv v2.0.1+incompatible // indirect
	github.com/pjbgf/sha1cd v0.7.0 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/rubenv/sql-migrate v1.8.1 // indirect
	github.com/russross/blackfriday/v2 v2.1.0 // indirect
	github.com/sergi/go-diff v1.4.0 // indirect
	github.com/shopspring/decimal v1.4.0 // indirect
	github.com/skeema/knownhosts v1.3.1 // indirect
	github.com/spf13/cast v1.7.0 // indirect
	github.com/spyzhov/ajson v0.9.1 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	github.com/xanzy/ssh-agent v0.3.3 // indirect
	github.com/xlab/treeprint v1.2.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.yaml.in/yaml/v2 v2.4.4 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/oauth2 v0.37.0 // indirect
	golang.org/x/term v0.46.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	gopkg.in/evanphx/json-patch.v4 v4.13.0 // indirect
	gopkg.in/inf.v0 v0.9.1 // indirect
	gopkg.in/warnings.v0 v0.1.2 // indirect
	k8s.io/apiextensions-apiserver v0.37.0 // indirect
	k8s.io/component-base v0.37.2 // indirect
	k8s.io/component-helpers v0.37.2 // indirect
	k8s.io/kube-openapi v0.0.0-20260721132016-d427ff9ee9ad // indirect
	k8s.io/kubectl v0.37.2 // indirect
	k8s.io/utils v0.0.0-20260626114624-be93311217bd // indirect
	sigs.k8s.io/controller-runtime v0.18.4 // indirect
	sigs.k8s.io/randfill v1.0.0 // indirect
	sigs.k8s.io/structured-merge-diff/v6 v6.4.2 // indirect
)
