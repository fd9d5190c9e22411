# make test   everything, on a fresh machine with Go: installs what the tests
#             need from Debian's packages when root there, else lists it
# make lab    real API servers and a real Vault in the foreground (CLUSTERS, DIR, SCHEDULE)
# make check  what needs no lab: formatting, vet, linters, drift, cross builds
# make bench  what a fleet of FLEET clusters costs, beside the least possible program for
#             the same writes; then the benchmarks
# make scoreboard  long proofs, and what they measured (ADD=1: more of it; LINES, SEEDS)
# make release  what is published of a version (VERSION), in dist; release-check tries it out
# make image  a container image, without a container engine
# make manual man pages and shell completions

GO      ?= go
CLUSTERS ?= 3
DIR     ?= lab
SCHEDULE ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null)
ADD     ?=
LINES   ?=
SEEDS   ?= 0
FLEET   ?= 1000
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

.PHONY: build image manual build-pkcs11 test check bench scoreboard lab deps generate release release-check clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/certd ./cmd/certd

# bin/certd-image.tar, for docker load, podman load and ctr image import.
image: build
	$(GO) -C deploy/container run . -program $(CURDIR)/bin/certd -out $(CURDIR)/bin/certd-image.tar -tag certd:$(VERSION)

# Man pages and shell completions, for packages.
manual: build
	$(GO) run ./cmd/certd/internal/cli/manual bin/man '$(VERSION)' '$(DATE)'
	mkdir -p bin/completions
	bin/certd completion bash > bin/completions/certd.bash
	bin/certd completion zsh > bin/completions/_certd
	bin/certd completion fish > bin/completions/certd.fish

# PKCS#11 needs C: a build of its own.
build-pkcs11:
	CGO_ENABLED=1 $(GO) build -trimpath -tags pkcs11 -ldflags '$(LDFLAGS)' -o bin/certd-pkcs11 ./cmd/certd

test: deps
	.ci/test

check:
	.ci/check

bench: deps
	$(GO) run ./.ci/cost -clusters $(FLEET)
	.ci/test -run '^$$' -bench . -benchtime 5x

# Each line runs anew, or where it stopped with ADD=1; records are kept in .scoreboard.
scoreboard:
	$(GO) run ./.ci/scoreboard/run -lines '$(LINES)' -seeds $(SEEDS) $(if $(ADD),-add)

lab:
	@bin=$$(deploy/lab/build.sh) && exec $$bin/lab up -clusters $(CLUSTERS) -dir '$(DIR)' -schedule '$(SCHEDULE)'

deps:
	@.ci/deps

# What is in the repository and made from code.
generate:
	$(GO) run ./cmd/certd config schema > docs/reference/certd.schema.json
	$(GO) run ./cmd/certd config example > docs/reference/certd.yaml
	$(GO) test ./cmd/certd/internal/metrics -run '^TestTheReferenceIsWhatIsRegistered$$' -update
	$(GO) run ./cmd/certd/internal/alert/generate .
	$(GO) -C deploy/helm run ./generate ../.. ../..
	$(GO) -C deploy/helm test . -run TestWhatTheExamplesRenderTo -update
	$(GO) test ./cmd/certd/internal/cli -run TestSchemasAreUpToDate -update
	$(GO) test ./cmd/certd -run TestEachEventIsDocumented -update

# What is published: programs, SBOM, licences, checksums, in dist.
release:
	.ci/release '$(VERSION)'

# The same of the commit that is checked out, for this platform: nothing is kept.
release-check:
	.ci/release --check

clean:
	rm -rf bin dist
