# Containers and releases; included by the Makefile.

IMAGE ?= penstock:local
PROJECT ?= penstock
PORT_1 ?= 9092
PORT_2 ?= 9102
PORT_3 ?= 9112
KEY_FILE ?= $(CURDIR)/deploy/gossip.key
UP_TIMEOUT ?= 120
VOLUMES ?=
DIST ?= dist
PLATFORMS ?= linux-amd64 linux-arm64 darwin-amd64 darwin-arm64 windows-amd64
RELEASE_TIME ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# Containers run as whoever made the image, so that they can read the gossip key, but never as root.
CALLER := $(shell id -u)
IMAGE_UID := $(if $(filter 0,$(CALLER)),65532,$(CALLER))
STAGE := bin/image

COMPOSE = PENSTOCK_IMAGE='$(IMAGE)' PENSTOCK_KEY_FILE='$(KEY_FILE)' \
	PENSTOCK_PORT_1=$(PORT_1) PENSTOCK_PORT_2=$(PORT_2) PENSTOCK_PORT_3=$(PORT_3) \
	$$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) -p '$(PROJECT)' -f deploy/docker-compose.yml

.PHONY: image
image: ## Build the container image IMAGE from static Linux binaries made here; no base image is needed
	@rm -rf $(STAGE) && mkdir -p $(STAGE)/bin && mkdir -m 0750 $(STAGE)/data
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(STAGE)/bin/broker ./cmd/broker
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(STAGE)/bin/brokerctl ./cmd/ctl
	docker build --quiet --build-arg UID=$(IMAGE_UID) --label org.opencontainers.image.version='$(VERSION)' \
		--label org.opencontainers.image.revision='$(REVISION)' -f deploy/Dockerfile.local -t '$(IMAGE)' $(STAGE)

# The key is made once; without it nodes refuse to start.
$(KEY_FILE):
	@umask 077; head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > '$@.partial'
	@if [[ $(CALLER) == 0 ]]; then chown $(IMAGE_UID):$(IMAGE_UID) '$@.partial'; fi
	@mv '$@.partial' '$@'
	@echo "made a gossip key: $@"

.PHONY: up
up: build image $(KEY_FILE) ## Start three nodes in containers, at 127.0.0.1:9092, 9102 and 9112, and wait until they are healthy
	$(COMPOSE) up -d
	@deadline=$$((SECONDS + $(UP_TIMEOUT))); for node in node-1 node-2 node-3; do \
		until docker exec "$$($(COMPOSE) ps -q $$node)" brokerctl broker ready >/dev/null 2>&1; do \
			if ((SECONDS > deadline)); then echo "$$node is not ready after $(UP_TIMEOUT) s; the logs end with:" >&2; \
				$(COMPOSE) logs --tail 20 >&2; exit 1; fi; \
			sleep 0.2; \
		done; \
	done
	@'$(BIN)/brokerctl' --bootstrap 127.0.0.1:$(PORT_1),127.0.0.1:$(PORT_2),127.0.0.1:$(PORT_3) cluster health --wait $(UP_TIMEOUT)s

.PHONY: down
down: ## Stop the containers of make up; VOLUMES=1 drops their data too
	$(COMPOSE) down $(if $(VOLUMES),--volumes) --timeout 40

COMPOSE_FORM ?= full

.PHONY: test-compose
test-compose: ## Bring the compose cluster up under a name of its own, break it under load, take it away (COMPOSE_FORM=short)
	$(GO) test ./deploy -count=1 -timeout 15m -run '^TestCompose$$|^TestReleaseImage$$' -deploy.compose $(COMPOSE_FORM) -v

# The same commit, Go version and VERSION give the same bytes.
.PHONY: release
release: ## Make archives, container images and checksums of PLATFORMS in DIST
	rm -rf '$(DIST)' && mkdir -p '$(DIST)/build'
	@for platform in $(PLATFORMS); do \
		suffix=; if [[ $$platform == windows-* ]]; then suffix=.exe; fi; \
		for program in broker:./cmd/broker brokerctl:./cmd/ctl; do \
			echo "building $${program%%:*} for $$platform"; \
			CGO_ENABLED=0 GOOS=$${platform%-*} GOARCH=$${platform#*-} $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' \
				-o "$(DIST)/build/$$platform/$${program%%:*}$$suffix" "$${program#*:}"; \
		done; \
	done
	$(GO) run ./deploy/pack -version '$(VERSION)' -revision '$(REVISION)' -time $(RELEASE_TIME) \
		-binaries '$(DIST)/build' -out '$(DIST)' LICENSE README.md CHANGELOG.md
	rm -rf '$(DIST)/build'
	@cd '$(DIST)' && sha256sum --check SHA256SUMS 2>/dev/null || shasum -a 256 --check SHA256SUMS
