# What can be done with memrecon. `make run` needs only Go and make; `make test` gets what else the tests need.

# Static binaries that say nothing of the machine they were built on. The version comes from here and not from Go's own
# stamping, which fails where git refuses the folder (owned by somebody else, as in many containers).
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"

# Packages whose tests named TestReal... make cgroups of their own. They also run in guests, see test-kernel.
KERNEL_TESTS := ./cgroup ./collector ./flight ./incident ./kernellog ./leak ./cmd/memrecon

# Of these, they measure memory that the race detector would multiply, or time: its run leaves them out, and another has them alone.
UNRACED := ./leak ./cmd/memrecon ./incident

# Of these, they need files with page cache, so a disk; its driver takes memory that no counter names.
WITH_DISK := ./leak ./cmd/memrecon

FUZZTIME ?= 10s

# What tools/deps unpacks stands behind what is installed.
export PATH := $(PATH):$(CURDIR)/.cache/bin

.PHONY: help
help: ## Show this.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: ## Build bin/memrecon.
	$(BUILD) -o bin/memrecon ./cmd/memrecon

.PHONY: run
run: build ## Build it and print the full report of this machine.
	bin/memrecon report

.PHONY: deps
deps:
	tools/deps

.PHONY: test
test: deps ## Run all tests; installs what they need (Debian, root).
	go vet ./...
	go vet -C bench ./...
	go vet -C e2e ./...
	go vet -C image ./...
	go vet -C manifests ./...
	go test -race ./...
	go test -p 1 -run '^TestReal' $(UNRACED)
	go test -C manifests -count=1 ./... # what these two test is none of their source: no cached results
	go test -C image -count=1 ./...
	$(MAKE) --no-print-directory docs-check test-kernel

.PHONY: test-kernel
test-kernel: deps bin/guest ## Run the TestReal... tests in a guest with cgroup v2 and, beside it, in one with v1.
	@set -e; for package in $(KERNEL_TESTS); do \
		CGO_ENABLED=0 go test -c -o bin/$$(basename $$package).test $$package; \
		go test -list '^TestReal' $$package | grep -q ^Test || { echo "$$package has no TestReal: see KERNEL_TESTS" >&2; exit 1; }; \
	done
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-kernel-v2 test-kernel-v1

.PHONY: test-kernel-v2 test-kernel-v1
test-kernel-v2 test-kernel-v1: test-kernel-%: # The guests of one version, one after another, with what test-kernel has built.
	@set -e; for package in $(KERNEL_TESTS); do \
		case " $(WITH_DISK) " in *" $$package "*) disk=64;; *) disk=0;; esac; \
		MEMRECON_REQUIRE_ALL=1 bin/guest -cgroup $* -disk $$disk -limit 15m -- bin/$$(basename $$package).test -test.run '^TestReal' -test.v; \
	done

.PHONY: bin/guest
bin/guest:
	@CGO_ENABLED=0 go build -o $@ ./guest

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s).
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: bench
bench: build deps ## Measure what reading a node costs, and leak, beside the floor and what others use (root).
	go run -C bench . -memrecon $(CURDIR)/bin/memrecon

# The linter has a go.mod of its own: in the product's, its two hundred dependencies would have a say in which versions the
# product is built with.
bin/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: lint
lint: bin/golangci-lint ## Run the linter, which also holds the architecture.
	bin/golangci-lint run
	@set -e; for module in bench e2e image manifests; do echo "bin/golangci-lint run in $$module"; (cd $$module && ../bin/golangci-lint run); done

.PHONY: fmt
fmt: bin/golangci-lint ## Format the code.
	bin/golangci-lint fmt
	@set -e; for module in bench e2e image manifests; do (cd $$module && ../bin/golangci-lint fmt); done

.PHONY: docs
docs: ## Write the documents that come from the code.
	go generate ./...

.PHONY: docs-check
docs-check: # That the documents are what the code says; where they are not, it has just written them.
	@before=$$(mktemp -d) && trap "rm -rf $$before" EXIT && cp -r docs $$before && $(MAKE) -s --no-print-directory docs && diff -ru $$before/docs docs || \
		{ echo "docs/ was not what the code says. It is now: commit it." >&2; exit 1; }

# The image's name is that of no registry: a node that lacks it does not ask one for it.
IMAGE     := localhost/memrecon
IMAGE_TAG := $(or $(VERSION),latest)

.PHONY: image
image: ## Build the container image localhost/memrecon:VERSION with docker, podman or buildah.
	@for builder in docker podman buildah; do \
		if $$builder info >/dev/null 2>&1; then \
			DOCKER_BUILDKIT=1 exec $$builder build --build-arg VERSION=$(VERSION) -t $(IMAGE):$(IMAGE_TAG) -t $(IMAGE):latest .; \
		fi; \
	done; \
	echo "image: none of docker, podman and buildah works here (docker info says why): install one, start its daemon," \
		"or use make image-archive" >&2; exit 1

DIST ?= dist

.PHONY: image-archive
image-archive: ## Write the same image for amd64 and arm64 as archives into dist/, with Go alone.
	@mkdir -p $(DIST)
	@set -e; for arch in amd64 arm64; do \
		GOARCH=$$arch $(BUILD) -o bin/linux-$$arch/memrecon ./cmd/memrecon; \
		go run -C image . -binary $(CURDIR)/bin/linux-$$arch/memrecon -version $(IMAGE_TAG) \
			-out $(abspath $(DIST))/memrecon-$(IMAGE_TAG)-$$arch.tar agent; \
		echo $(DIST)/memrecon-$(IMAGE_TAG)-$$arch.tar; \
	done

# The node to test with: its kubelet, 1.37 as the control plane or 1.34, and its cgroups, v2 or v1.
KUBELET ?= 1.37
CGROUP  ?= v2
LAB      = bin/lab -kubelet $(KUBELET) -cgroup $(CGROUP)

.PHONY: lab
lab: lab-deps ## Start a one-node Kubernetes, with memrecon's image, and a shell beside it (root).
	$(LAB) -- bash

.PHONY: e2e
e2e: ## Run the tests on real clusters that it starts: Kubernetes 1.37, its node with cgroup v2, then one with a kubelet 1.34 and v1 (root).
	$(MAKE) --no-print-directory e2e-run KUBELET=1.37 CGROUP=v2
	$(MAKE) --no-print-directory e2e-run KUBELET=1.34 CGROUP=v1

.PHONY: e2e-run
e2e-run: lab-deps
	go test -C e2e -c -o ../bin/e2e.test .
	$(LAB) -- env -C e2e MEMRECON_REQUIRE_ALL=1 ../bin/e2e.test -test.v -test.timeout 30m

# What the lab is put together from. Whether a program is up to date is for go build to say.
.PHONY: lab-deps
lab-deps: deps
	CGO_ENABLED=0 go build -C e2e -o ../bin/ ./lab
	@mkdir -p .cache/lab/images
	$(BUILD) -o bin/memrecon ./cmd/memrecon
	go run -C image . -binary $(CURDIR)/bin/memrecon -version $(IMAGE_TAG) -out $(CURDIR)/.cache/lab/images/memrecon.tar agent
	CGO_ENABLED=0 go build -C e2e -trimpath -ldflags "-s -w" -o ../bin/ ./lab/workload
	go run -C image . -name localhost/workload -binary $(CURDIR)/bin/workload -out $(CURDIR)/.cache/lab/images/workload.tar
	@tools/kubernetes kubernetes
	@[ $(KUBELET) = 1.37 ] || tools/kubernetes kubelet-$(KUBELET)
