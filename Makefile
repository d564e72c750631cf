# `make` lists what there is. Every target first installs what is missing (.ci/prepare).

CARGO ?= cargo
# Further arguments of `walcast demo`, `cargo test` or `cargo bench`: make test ARGS='--test cluster'
ARGS ?=
# The Postgres to test against, instead of the machine's own: make test POSTGRES=17 (.ci/with-postgres says which).
POSTGRES ?=
WITH_POSTGRES = $(if $(POSTGRES),.ci/with-postgres $(POSTGRES) )
# What is run against every version: catalog, publication, slot, decoding, snapshots, fills and DDL.
VERSION_TESTS = catalog changes generated_columns schema_changes source_failures visibility
TARGET_DIRECTORY = $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint prepare prepare-tests

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prepare ## Build walcast and show it at work on a throwaway Postgres and regional SQLite replicas
	@echo 'make demo: building the release binary, then running walcast demo'
	$(CARGO) build --release --locked --bin walcast
	$(TARGET_DIRECTORY)/release/walcast demo $(ARGS)

test: prepare-tests ## Run every test: unit, integration against a real Postgres, workerd, wrangler and Chromium, documentation
	@echo 'make test: running every test; those that need a Postgres, a workerd, wrangler or a Chromium start their own'
	$(WITH_POSTGRES)$(CARGO) test --locked $(ARGS)
	$(if $(ARGS)$(POSTGRES),,@set -e; versions=$$(.ci/with-postgres versions); for version in $$versions; do \
		.ci/with-postgres "$$version" $(CARGO) test --locked $(VERSION_TESTS:%=--test %); done)
	$(if $(ARGS),,$(WITH_POSTGRES)$(CARGO) test --locked --features otel --test otel)

bench: prepare ## Measure throughput and latency beside pg_recvlogical, on a throwaway Postgres
	@echo 'make bench: writing benches/results.md and .svg; shorter with ARGS="--scale 0.1 --rounds 1"'
	$(CARGO) bench --locked --bench drain -- $(ARGS)

lint: prepare ## Check format, lints and documentation; a warning is an error
	@echo 'make lint: checking format, lints and documentation'
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --features otel --lib --bins --test otel -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

prepare: ## Install what is missing on this machine: a C compiler, pkg-config, make, a Postgres server, workerd
	@.ci/prepare

# wrangler is 394 MB, and Chromium 300 MB, that only tests need.
prepare-tests:
	@.ci/prepare tests
