# hansa's commands. `make` alone explains them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check bench fuzz mutants-smoke ours

# Builds lie outside the clone, so that fresh clones share them.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hansa/target

CARGO ?= cargo
XTASK := $(CARGO) run --quiet --package hansa-xtask --

# make demo ARGS="--net loopback --keep"
ARGS ?=
# make test RING=netns
RING ?=
# make bench ROW=conn
ROW ?=
# make fuzz TARGET=frame FUZZ_SECONDS=600
TARGET ?=
FUZZ_SECONDS ?= 60
# make mutants-smoke MUTANT=no-hold-down
MUTANT ?=

help: ## Show this help
	@echo "hansa: services of separate clusters reach each other by name."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# What another clone built there must not pass for ours.
ours:
	@scripts/ours.sh

demo: ours ## Build and run three members on this machine (ARGS="--net loopback --keep …")
	@scripts/deps.sh demo
	$(CARGO) build --package hansa-cli
	"$(CARGO_TARGET_DIR)/debug/hansa" demo $(ARGS)

test: ours ## Install what tests need and run the rings of .ci/milestones (RING=netns runs one)
	@scripts/deps.sh test
	$(XTASK) test $(addprefix --ring ,$(RING))

check: ours ## Format, lints, tidy, dependency rules and the fast rings, in minutes
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- --deny warnings
	$(XTASK) tidy
	@scripts/deny.sh
	$(XTASK) test --ring value --ring loopback

bench: ours ## Measure side by side with the peers (ROW=conn runs one row)
	benches/run $(ROW)

fuzz: ours ## Fuzz every parser for FUZZ_SECONDS each (TARGET=name fuzzes one; nightly Rust)
	fuzz/run "$(FUZZ_SECONDS)" $(TARGET)

mutants-smoke: ours ## Put in eleven known faults one by one; each must turn a test red (MUTANT=name)
	$(XTASK) mutants $(MUTANT)
