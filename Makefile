# Everything a developer or CI does here. What is missing (Kubernetes, tools, Debian packages as root) is built or installed on the way.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build images charts test e2e chaos demo demo-gitlab bench fuzz lint gen testbed gcc

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentk
TOOLS := $(CACHE)/tools
COMMIT := $(shell git rev-parse --short=8 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X gitlab.com/agentk/agentk/internal/version.Commit=$(COMMIT)
FUZZTIME ?= 30s

GOFUMPT := $(TOOLS)/gofumpt@v0.12.0/gofumpt
STATICCHECK := $(TOOLS)/staticcheck@v0.8.2/staticcheck
PROTOC_GEN_GO := $(TOOLS)/protoc-gen@v1.36.12-v1.6.2/protoc-gen-go
PROTOC_GEN_GO_GRPC := $(TOOLS)/protoc-gen@v1.36.12-v1.6.2/protoc-gen-go-grpc

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

build: ## bin/kas, bin/agentk and its engine, bin/agentk-gitops
	CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)' -o bin/ ./cmd/kas ./cmd/agentk ./cmd/agentk-gitops

images: ## bin/images/kas.tar and agentk.tar, OCI, without a container daemon; PLATFORMS=linux/amd64 for one platform only
	go run ./deploy/images

charts: ## lint the Helm charts and pack them into bin/charts
	go run ./test/charts/package bin/charts

test: gcc testbed ## all tests with the race detector, against a real Kubernetes API, without the node
	go test -race -shuffle=on -timeout 25m ./...

e2e: ## the tests that need a real node (root): exec, logs, port-forward, helm, middleboxes, installing; and GitOps when things break
	go run ./test/kube/build node
	go test -tags e2e -count=1 -p 1 -timeout 40m ./deploy/images ./test/kube ./test/gitops ./test/e2e/...

chaos: testbed ## a fleet of kas, agentk and Redis, broken in every way on the list (up to 20 minutes); SOAK=1 half an hour more
	go test -tags chaos -count=1 -parallel 8 -timeout $(if $(SOAK),80m,25m) ./test/chaos

demo: ## the whole line once, narrated; KEEP=1 leaves it running to try by hand
	go run ./test/demo

demo-gitlab: ## the same beside a GitLab (a double): git push, a CI pipeline, user access; KEEP=1 as above
	go run ./test/demogitlab

bench: ## direct against through the line, in pairs; QUICK=1 for a short run, ROWS=get_,list50 for some figures, PROFILE=folder
	@go run ./test/kube/build node || echo "no node: the figures that need one will say so" >&2
	go run ./test/bench

fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|/[^/]+:func | |' | sort | \
	while read -r folder target; do \
		echo "$$folder $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$folder" </dev/null || exit 1; \
	done

lint: $(GOFUMPT) $(STATICCHECK) ## gofumpt, go vet, staticcheck
	@unformatted=$$($(GOFUMPT) -l .); test -z "$$unformatted" || { echo "not formatted as gofumpt does:"; echo "$$unformatted"; exit 1; }
	go vet -tags e2e,chaos ./...
	$(STATICCHECK) -tags e2e,chaos ./...

gen: $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC) ## the Go code of api/*.proto, the man pages
	go run ./api/gen $(dir $(PROTOC_GEN_GO))
	go run ./deploy/man

testbed:
	@go run ./test/kube/build

gcc:
	@go run ./test/tool/install gcc gcc libc6-dev

$(GOFUMPT):
	GOBIN=$(@D) go install mvdan.cc/gofumpt@v0.12.0
$(STATICCHECK):
	GOBIN=$(@D) go install honnef.co/go/tools/cmd/staticcheck@v0.8.2
$(PROTOC_GEN_GO):
	GOBIN=$(@D) go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
$(PROTOC_GEN_GO_GRPC):
	GOBIN=$(@D) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
