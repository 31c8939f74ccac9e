# Penstock. `make help` lists what can be done; CONTRIBUTING.md says when.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
MODULE := github.com/penstock-io/penstock

# What the binaries say about themselves; a release build may set both.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
STAMP := $(MODULE)/internal/telemetry
LDFLAGS := -s -w -X $(STAMP).version=$(VERSION) -X $(STAMP).revision=$(REVISION)

# Settings of single targets. PACKAGES are those that test, test-race, fix, fuzz and bench look at; CHAOS is what the tests of make chaos are
# told, such as CHAOS=-run=TestLeaderKills for one scenario in its short form; RACE is what go test is told besides by test-race, such as -short.
PACKAGES ?= ./...
CHAOS ?= -chaos.long
RACE ?=
BIN ?= bin
BROKERS ?= 3
PORT ?= 9092
DATA_DIR ?= ./data/dev
SIM_CORE ?= 10000
SIM_STORAGE ?= 500
SIM_MODEL ?= 1000000
SIM_SWEEP ?= 1
SIM_WRITERS ?= 2000
FUZZTIME ?= 30s
BENCH ?= .
BENCHTIME ?= 1s

# Tools are built from the pinned versions of tools/go.mod, once for each change of it.
TOOLS := .bin/.built
BUF := PATH="$(CURDIR)/.bin:$$PATH" buf
ERROR_CODES := api/proto/penstock/v1/error_code.proto

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)


.PHONY: build
build: ## Build ./bin/broker and ./bin/brokerctl, static and stamped with the version (BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(BIN)/broker' ./cmd/broker
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(BIN)/brokerctl' ./cmd/ctl

.PHONY: run
run: build ## Build, then run a cluster of 3 brokers on this machine (BROKERS, PORT, DATA_DIR)
	exec '$(BIN)/broker' dev --brokers $(BROKERS) --port $(PORT) --data-dir '$(DATA_DIR)'


.PHONY: test
test: ## Run all tests (PACKAGES)
	$(GO) test -timeout 6m $(PACKAGES)

.PHONY: test-race
test-race: ## Run all tests under the race detector (PACKAGES, RACE)
	$(GO) test -race -timeout 15m $(RACE) $(PACKAGES)

.PHONY: verify
verify: verify-format verify-lint verify-proto verify-generated verify-layers verify-tidy verify-cross ## Check format, lint, protos, generated code, layers, go.mod, cross-builds
	@echo "verify: all is well"

.PHONY: verify-format
verify-format: $(TOOLS)
	@echo "verify: format"
	@found=$$(git ls-files --cached --others --exclude-standard '*.go' ':!api/gen' | xargs -r ls 2>/dev/null | xargs -r .bin/gofumpt -l); \
	if [[ -n "$$found" ]]; then echo "not formatted (make fix mends it):"; echo "$$found"; exit 1; fi

.PHONY: verify-lint
verify-lint: $(TOOLS)
	@echo "verify: lint"
	@.bin/golangci-lint run ./...
	@$(GO) vet -tags planted ./...

# The API is compared with the main branch, or on the main branch with the commit before.
.PHONY: verify-proto
verify-proto: $(TOOLS)
	@echo "verify: protos"
	@$(BUF) lint
	@$(BUF) format --diff --exit-code api/proto
	@base=$$(git rev-parse -q --verify 'origin/main^{commit}' || git rev-parse -q --verify 'main^{commit}' || true); \
	if [[ -n "$$base" && "$$base" == "$$(git rev-parse HEAD)" ]]; then base=$$(git rev-parse -q --verify 'HEAD~1^{commit}' || true); fi; \
	if [[ -z "$$base" ]] || ! git cat-file -e "$$base:buf.yaml" 2>/dev/null; then echo "verify: no earlier API to compare with"; exit 0; fi; \
	old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	git archive "$$base" buf.yaml api/proto | tar -x -C "$$old"; \
	$(BUF) breaking --against "$$old"

.PHONY: verify-generated
verify-generated: $(TOOLS)
	@echo "verify: generated code"
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(GO) run ./internal/model/errgen > "$$fresh/error_code.proto"; \
	diff -u $(ERROR_CODES) "$$fresh/error_code.proto" && \
	$(GO) run ./internal/metadata/settingsgen | diff -u docs/topic-settings.md - && \
	$(GO) run ./internal/broker/metricsgen | diff -u docs/metrics.md - && \
	$(GO) run ./internal/config/configgen | diff -u docs/configuration.md - && \
	$(BUF) generate --template api/buf.gen.yaml -o "$$fresh" && \
	diff -ru api/gen "$$fresh/api/gen" || { echo "generated code is not up to date: run make generate"; exit 1; }

.PHONY: verify-layers
verify-layers:
	@echo "verify: layers"
	@$(GO) test ./internal/layers

.PHONY: verify-tidy
verify-tidy:
	@echo "verify: go.mod"
	@$(GO) mod tidy -diff
	@$(GO) mod verify >/dev/null

.PHONY: verify-cross
verify-cross:
	@echo "verify: cross-builds"
	@CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) build ./...
	@CGO_ENABLED=0 GOOS=windows GOARCH=amd64 $(GO) build ./...


.PHONY: fix
fix: $(TOOLS) ## Format the code, mend what the linters can mend, tidy go.mod
	git ls-files --cached --others --exclude-standard '*.go' ':!api/gen' | xargs -r ls 2>/dev/null | xargs -r .bin/gofumpt -w
	$(BUF) format -w api/proto
	.bin/golangci-lint run --fix $(PACKAGES) || true
	$(GO) mod tidy

.PHONY: generate
generate: $(TOOLS) ## Generate the error codes and pages from their tables, and the code from the protos
	$(GO) run ./internal/model/errgen > $(ERROR_CODES).new
	mv $(ERROR_CODES).new $(ERROR_CODES)
	$(BUF) generate --template api/buf.gen.yaml
	$(GO) run ./internal/metadata/settingsgen > docs/topic-settings.md.new
	mv docs/topic-settings.md.new docs/topic-settings.md
	$(GO) run ./internal/broker/metricsgen > docs/metrics.md.new
	mv docs/metrics.md.new docs/metrics.md
	$(GO) run ./internal/config/configgen > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md


.PHONY: sim
sim: ## Run the seeded simulation (SIM_CORE, SIM_STORAGE schedules, SIM_MODEL operations on a log, each SIM_SWEEP-th of the sweep, SIM_WRITERS seeds of concurrent writers)
	$(GO) test ./internal/sim -count=1 -timeout 60m -run '^TestSim' -sim.core=$(SIM_CORE) -sim.storage=$(SIM_STORAGE)
	$(GO) test ./internal/storage -count=1 -timeout 120m -run '^(TestModelBySeed|TestEveryOperationFailsOnce)$$' -v -storage.model=$(SIM_MODEL) -storage.sweep=$(SIM_SWEEP)
	$(GO) test ./internal/storage -count=1 -timeout 60m -run '^TestConcurrentWritersSurviveCrashes$$' -storage.writers=$(SIM_WRITERS)

.PHONY: sim-planted
sim-planted: ## Show that the simulation finds each planted bug
	$(GO) test -tags planted ./internal/sim -count=1 -timeout 60m -run '^TestPlanted' -v

.PHONY: chaos
chaos: ## Kill brokers under load, as real processes, and check the history (CHAOS)
	$(GO) test ./internal/testcluster/chaos -count=1 -timeout 90m -v $(CHAOS)

.PHONY: fuzz
fuzz: ## Fuzz everything that parses bytes, each target for FUZZTIME (PACKAGES)
	@$(GO) test -list '^Fuzz' $(PACKAGES) | awk '/^Fuzz/ { name[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, name[i]; n = 0 }' | \
	while read -r package name; do \
		echo "== $$package $$name"; \
		$(GO) test "$$package" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) </dev/null || exit 1; \
	done

.PHONY: bench
bench: ## Run the Go benchmarks (BENCH, BENCHTIME, PACKAGES)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) $(PACKAGES)

$(TOOLS): tools/go.mod tools/go.sum
	@echo "building the tools of tools/go.mod into .bin (once)"
	@$(GO) build -C tools -o ../.bin/ tool
	@touch $@


include deploy/deploy.mk
