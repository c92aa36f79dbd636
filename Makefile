# What people run. "make" alone lists the targets.

GO            ?= go
GOLANGCI      ?= $(or $(wildcard bin/golangci-lint),$(shell command -v golangci-lint),$(shell $(GO) env GOPATH)/bin/golangci-lint)
GOLANGCI_WANT := 2.15.0
REDIS         := $(or $(BOBBIN_TEST_REDIS_SERVER),$(shell command -v redis-server))
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: help build test lint fuzz soak mutations bench

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

build: ## build bin/bobbin
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/bobbin ./cmd/bobbin

test: ## run every test with the race detector; real-Redis tests need redis-server
ifeq ($(REDIS),)
	@echo "No redis-server was found: tests that need a real one are SKIPPED; those on the embedded one run."
	@echo "To run them too: apt-get install redis-server, or brew install redis, or set BOBBIN_TEST_REDIS_SERVER to its path."
else
	@echo "Tests of a real server use $(REDIS)."
endif
	$(GO) test -race -timeout 12m ./...
ifeq ($(REDIS),)
	@echo "Done, without a real redis-server: the tests against one were skipped."
endif

lint: ## gofmt, go vet, golangci-lint, docker compose config
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	@$(GOLANGCI) version --short 2>/dev/null | grep -q '^v\?$(GOLANGCI_WANT)$$' || { \
		echo "golangci-lint $(GOLANGCI_WANT) is needed: go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_WANT)"; exit 1; }
	$(GOLANGCI) run ./...
	@if docker compose version >/dev/null 2>&1; then docker compose config -q && echo "docker-compose.yml is valid"; \
		else echo "docker compose is not here: docker-compose.yml was not checked"; fi

fuzz: ## run every fuzz target for a while: FUZZTIME=10s
	@set -e; targets=0; for package in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | cut -d' ' -f2); do \
			echo "$$package $$target"; targets=$$((targets+1)); \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),10s) $$package; \
		done; done; \
	test $$targets -gt 0 || { echo "no fuzz targets were found"; exit 1; }

soak: ## chaos for DURATION=30m: prints totals; BOBBIN_CHAOS_SEED=n replays a schedule
	BOBBIN_SOAK=$(or $(DURATION),30m) $(GO) test -v -count=1 -timeout 24h -run TestStorm ./internal/chaos

mutations: ## take out one mitigation at a time and show that a test fails for each
	$(GO) run ./internal/mutations $(ONLY)

bench: build ## measure everything and write the figures of docs/performance.md
	bin/bobbin bench all --write docs/performance.md
