# `make test` is everything; the other targets are its parts, the quick ones first.

CARGO ?= cargo

# A C compiler for the cryptography and the allocator, and what the tests in tests/e2e run.
BUILD_PACKAGES = gcc libc6-dev make ca-certificates
E2E_PACKAGES = docker.io containerd podman buildah skopeo docker-registry prometheus busybox-static systemd gzip mount e2fsprogs strace \
	charliecloud flatpak dbus-daemon python3-venv nodejs npm chromium-headless-shell
PACKAGES = $(BUILD_PACKAGES) $(E2E_PACKAGES)
# What Pierglass is measured beside.
BENCH_PACKAGES = $(BUILD_PACKAGES) docker-registry nginx-light

.NOTPARALLEL:
.PHONY: help test deps fmt lint unit it chaos e2e docs fuzz-check soak bench bench-quick bench-deps

help: ## What can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

test: deps fmt lint unit it chaos e2e docs fuzz-check ## Everything that must pass

deps: ## Install the Debian packages that are missing
	@.ci/install $(PACKAGES)

fmt: ## Formatting, checked
	$(CARGO) fmt --check

lint: ## Lints of everything, tests included
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@# Not among all targets, because Cargo.toml keeps it out of a plain `cargo test`.
	$(CARGO) clippy --locked --test e2e -- -D warnings

unit: ## Tests inside the sources
	$(CARGO) test --locked --lib --bins

it: ## The program between a client and registries that misbehave
	$(CARGO) test --locked --test it

chaos: ## Clients pull while everything breaks at random, for some seconds
	$(CARGO) test --locked --test chaos -- --nocapture

e2e: ## The program as shipped, between real clients and real servers; wants root
	$(CARGO) test --locked --release --test e2e

docs: ## Documentation of the sources, without a broken link
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fuzz-check: ## The fuzz targets compile
	@if [ -d fuzz ]; then \
		set -x; $(CARGO) check --manifest-path fuzz/Cargo.toml --all-targets; \
	fi

# How long each seed of a soak lasts, and how many seeds; PIERGLASS_CHAOS_SEED is the first of them.
MINUTES ?= 10
SEEDS ?= 5

soak: ## Chaos for MINUTES=10 with each of SEEDS=5, the program as shipped; wants root
	PIERGLASS_CHAOS_ROOT=1 PIERGLASS_CHAOS_SECONDS=$$(($(MINUTES) * 60)) PIERGLASS_CHAOS_SEEDS=$(SEEDS) \
		$(CARGO) test --locked --release --test chaos -- --nocapture

bench: bench-deps ## What it costs beside nginx and docker-registry, about half an hour; see docs/performance.md
	$(CARGO) bench --locked --bench serve

bench-quick: bench-deps ## The same with small blobs and few rounds
	$(CARGO) bench --locked --bench serve -- --quick

bench-deps:
	@.ci/install $(BENCH_PACKAGES)
