# Every verify-x has a fix-x; a failure prints the command to paste. Start with `make help`.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

LAB  ?= main
ROOT := $(CURDIR)
# Namespaces and TUN devices need root; nothing else does.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# What was built, or else what the lab was started with.
REGIONCTL = $(firstword $(wildcard bin/regionctl /var/lib/antipode/$(LAB)/bin/regionctl))
# The directories of the workspace's modules, as arguments for go, without the tests of the whole system.
MODULES  = $(shell go list -m -f '{{.Dir}}')
PACKAGES = $(addsuffix /...,$(filter-out %/e2e,$(MODULES)))
TEST := go test -race -timeout 10m
# The compiler runs as you; only a test that makes namespaces runs as root.
AS_ROOT := $(if $(SUDO),-exec "$(SUDO) -H env PATH=$$PATH")

##@ Run
.PHONY: help deps deps-test tools build up down
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile

deps: ## install what running needs and is missing (Debian packages; their services stay off)
	@tools/deps.sh run

deps-test: ## the same, and what testing needs
	@tools/deps.sh test

build: ## build every program into bin/
	@mkdir -p bin
	go build -o bin/ ./regions/cmd/... $(addsuffix /...,$(wildcard ./services/*/cmd))

up: deps build ## start three regions on this machine, with the WAN between them
	$(SUDO) bin/regionctl --lab $(LAB) up

down: ## stop them; data stay
	@$(if $(REGIONCTL),$(SUDO) $(REGIONCTL) --lab $(LAB) down,echo "nothing is built here and lab $(LAB) has no data: there is nothing to stop")

##@ Test
.PHONY: test test-unit test-engines test-e2e accept bench bench-dns cache-tests
test: deps-test build test-engines test-e2e ## all tests: rules, adapters on real engines, the whole system in short

test-unit: verify-structure ## only tests that need no engine
	$(TEST) -short $(PACKAGES) ./e2e/bench

test-engines: verify-structure .bin/s3.built
	@# Root runs all at once, those first that take longest.
	$(if $(SUDO),$(TEST) $(AS_ROOT) ./regions/...,$(TEST) ./regions/... $(filter-out $(ROOT)/regions/...,$(PACKAGES)))
	$(if $(SUDO),$(TEST) $(filter-out $(ROOT)/regions/...,$(PACKAGES)))
	@# The race detector would make 1,000 seeds of the simulation too slow, and it has one goroutine.
	go test ./platform/sim

test-e2e: build
	go test -p 1 -timeout 30m $(AS_ROOT) ./e2e ./e2e/operate ./e2e/mutants

accept: deps-test build ## what has counts and time bounds, in full; prints measured against bound
	go test -v -p 1 -timeout 180m -count=1 $(AS_ROOT) ./e2e/operate ./e2e -args -accept
	go test -v -timeout 60m -count=1 ./e2e/mutants -args -accept

bench: deps-test build ## costs as ratios against references of the same run, into docs/benchmarks.md (BENCH=short: see that it works)
	go run ./e2e/bench $(if $(filter short,$(BENCH)),-short) $(AS_ROOT)

bench-dns: deps-test ## what an answer of the name server costs, beside CoreDNS and BIND, into docs/benchmarks-dns.md
	go run ./e2e/bench -dns $(if $(filter short,$(BENCH)),-short)

cache-tests: deps ## the public conformance suite of HTTP caches against the edge's rules, into docs/http-cache-tests.md
	tools/cache-tests/run.sh docs/http-cache-tests.md

##@ Check
.PHONY: lint verify verify-structure verify-format fix-format verify-generate fix-generate generate verify-modules fix-modules verify-proto release-baseline
lint: tools ## static checks of all modules
	.bin/golangci-lint run $(addsuffix /...,$(MODULES))

verify: verify-format verify-structure verify-proto verify-generate verify-modules lint ## every check that needs no running

verify-format: tools ## Go files are formatted (fix-format)
	@.bin/golangci-lint fmt --diff $(MODULES) || { echo "fix: make fix-format"; exit 1; }
fix-format: tools
	.bin/golangci-lint fmt $(MODULES)

# Not from the test cache, which does not see the other modules' files change.
verify-structure: ## who imports whom, names of packages, length of mains
	go test -count=1 ./e2e/archtest

verify-proto: tools ## .proto files follow the rules and break no client of the last release
	.bin/buf lint
	@.bin/buf breaking api/proto --against api/baseline.binpb || { echo "a released API may only grow; see CONTRIBUTING.md, \"Changing the API\""; exit 1; }
release-baseline: tools ## at a release: make the present API the one that must not be broken
	.bin/buf build api/proto --exclude-source-info -o api/baseline.binpb

verify-generate: tools ## generated code is what the .proto files say (fix-generate)
	@tools/generated.sh || { echo "fix: make fix-generate"; exit 1; }
fix-generate generate: tools
	.bin/buf generate

verify-modules: ## go.mod, go.sum and go.work.sum are tidy and agree (fix-modules)
	@tools/modules.sh verify || { echo "fix: make fix-modules"; exit 1; }
fix-modules:
	@tools/modules.sh fix

##@ Clean
.PHONY: clean
clean: ## stop the lab; remove its data and the programs (the tools in .bin stay)
	@$(if $(REGIONCTL),$(SUDO) $(REGIONCTL) --lab $(LAB) clean)
	rm -rf bin .cache e2e/artifacts

##@ Tools
# One module for each set of tools, outside the workspace, so that their dependencies meet neither each other's nor ours.
tools: .bin/buf.built .bin/protoc.built .bin/lint.built ## build the tools of development into .bin/
.bin/%.built: tools/%/go.mod
	@mkdir -p .bin
	GOWORK=off go -C tools/$* build -o $(ROOT)/.bin/ tool
	@touch $@
