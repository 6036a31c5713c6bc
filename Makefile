# poip: packets from many sensors to many analysts, safely.
#
#   make run      build, start a demonstration, print what to paste elsewhere
#   make test     install what the tests need, then run them all
#   make help     every target

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X poip/internal/cli.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# What the tests run beside us: Debian's packages, and a command of each.
DEB_PACKAGES := tshark tcpdump ncat netcat-openbsd socat stunnel4 iperf3 nftables tcpreplay iproute2 openssl procps strace systemd sslscan
DEB_COMMANDS := tshark tcpdump ncat nc.openbsd socat stunnel4 iperf3 nft tcpreplay ip openssl pgrep strace systemd-analyze sslscan

export POIP_CAPTURES ?= $(abspath ../shared/captures)
export GOTOOLCHAIN   ?= local
export PATH          := $(PATH):/usr/sbin:/sbin

.PHONY: build
build: ## both commands, static, into bin/
	$(BUILD) -o bin/ ./cmd/poip-relay ./cmd/poip-agent

.PHONY: run
run: build ## build and start a demonstration on this machine
	exec bin/poip-relay demo

.PHONY: deps
deps: ## install the tools that tests compare with (Debian packages)
	@missing=$$(for c in $(DEB_COMMANDS); do command -v $$c >/dev/null || echo $$c; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing, for lack of: $$missing"; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $(DEB_PACKAGES) >/dev/null; \
	fi

.PHONY: test
test: deps build ## every test, with the real tools
	go test -count=1 -timeout 20m ./...

.PHONY: test-faults
test-faults: deps ## every row of the fault matrix, on the real programs (minutes)
	go test -tags faults -count=1 -timeout 20m -parallel 4 -skip '^TestSoak$$' ./internal/faults

SOAK ?= 1h
SEED := $(or $(SEED),$(shell date +%s))
.PHONY: soak
soak: deps ## a random mix of faults for SOAK (1h), chosen by SEED
	@mkdir -p bin; : >bin/soak.log; tail -f bin/soak.log & trap "kill $$!" EXIT; \
	echo "soak for $(SOAK) with SEED=$(SEED)"; \
	SOAK=$(SOAK) SEED=$(SEED) SOAK_LOG=$(abspath bin/soak.log) \
	  go test -tags faults -count=1 -timeout 0 -run '^TestSoak$$' ./internal/faults

.PHONY: race
race: deps build ## the tests of our own code under the race detector
	go test -race -short -count=1 -timeout 20m ./agent/... ./auth ./broker ./certs ./internal/config ./internal/journal ./internal/pcap ./internal/transport ./internal/wire

FUZZTIME ?= 5s
# Go before 1.27 sometimes takes the end of FUZZTIME for a failure
# (go.dev/issue/75804): a target that fails so, without an input, runs again.
.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (5s)
	@mkdir -p bin; \
	run() { go test -run '^$$' -fuzz "^$$2$$" -fuzztime $(FUZZTIME) -parallel 2 "$$1" </dev/null | tee bin/fuzz.log; }; \
	late() { grep -q '^ *context deadline exceeded$$' bin/fuzz.log && ! grep -q 'Failing input' bin/fuzz.log; }; \
	grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  grep -ho --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -d' ' -f2 | while read -r target; do \
	    echo "== $$dir $$target"; \
	    run "$$dir" "$$target" || { late && run "$$dir" "$$target"; } || exit; \
	  done; \
	done

.PHONY: bench
bench: deps build ## side by side with the neighbors, as ratios in one run
	go run ./internal/bench $(value BENCHFLAGS)

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags faults ./internal/faults
	cd .ci/tools && go build -o ../../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...
	bin/staticcheck -tags faults ./internal/faults

# Left out, for reasons that hold everywhere:
#   G103  unsafe is where the kernel's ring, capset(2) and seccomp(2) are, in five files of agent/capture and internal/confine
#   G104  errors of Close after an error, of Remove while cleaning up, of writes to who is gone: nobody could act on them
#   G304  paths are the operator's, from flags, the configuration and the data folder; what peers name goes through os.Root
GOSEC_EXCLUDE := G103,G104,G304

.PHONY: security
security: ## gosec on what the programs are made of, and how exposed systemd finds their units
	cd .ci/tools && go build -o ../../bin/gosec github.com/securego/gosec/v2/cmd/gosec
	bin/gosec -quiet -exclude=$(GOSEC_EXCLUDE) $$(go list -deps -f '{{if not .Standard}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}' ./cmd/...)
	systemd-analyze security --no-pager --offline=true --threshold=20 dist/systemd/poip-agent.service | tail -n 1
	systemd-analyze security --no-pager --offline=true --threshold=15 dist/systemd/poip-relay.service | tail -n 1

.PHONY: vulncheck
vulncheck: ## known vulnerabilities that we call; VULNDB=file:///DIR where vuln.go.dev cannot be reached
	cd .ci/tools && go build -o ../../bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	bin/govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...

.PHONY: cross
cross: ## every platform that we promise
	for arch in amd64 arm64 arm mipsle; do \
	  echo "linux/$$arch"; GOOS=linux GOARCH=$$arch $(BUILD) -o bin/linux-$$arch/ ./cmd/poip-relay ./cmd/poip-agent; \
	done
	for os in darwin windows; do \
	  echo "$$os/amd64 (agent)"; GOOS=$$os GOARCH=amd64 $(BUILD) -o bin/$$os-amd64/ ./cmd/poip-agent; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 13
