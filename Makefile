# The commands of the project. `make help` lists them.
#
# A person needs Rust, gcc, make, curl and Python 3 with venv; what the tests need on top of that
# `make test` installs by itself when it runs as root, and otherwise names.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIND ?= 127.0.0.1:8000
JOBS ?= 2
# Of each target, in `make soak`.
FUZZ_SECONDS ?= 3600
PYTEST = $(E2E)/bin/python -m pytest -q
E2E := e2e/.venv
MARKET := examples/market
DENY_VERSION := 0.20.2
DENY := $(shell command -v cargo-deny || echo target/tools/bin/cargo-deny)

# The cases for servers of HTTP/2 in e2e/test_suites.py.
HTTPWG_VERSION := 0.2.5
HTTPWG := $(shell command -v httpwg || echo target/tools/bin/httpwg)

ADVISORIES := https://github.com/rustsec/advisory-db

# Debian packages of the tests, as command:package.
TEST_PACKAGES := redis-server:redis-server sshd:openssh-server nginx:nginx slowhttptest:slowhttptest wrk:wrk ab:apache2-utils \
	h2load:nghttp2-client openssl:openssl testssl:testssl.sh readelf:binutils g++:g++ pebble:pebble systemd-analyze:systemd

.PHONY: help run test check soak bench wheel clean
.PHONY: needs test-needs release debug lint tidy deny unit e2e wheel-test

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: needs release $(MARKET)/.venv/ready ## serve examples/market on 127.0.0.1:8000 (BIND=host:port for another address)
	@$(MARKET)/serve "$(BIND)"

test: needs test-needs ## everything that must be green
	@$(MAKE) --no-print-directory lint deny unit e2e wheel-test

check: needs test-needs ## the inner loop: lint, unit tests and a few end-to-end tests
	@$(MAKE) --no-print-directory lint unit debug
	$(PYTEST) -n $(JOBS) -m smoke e2e

soak: needs test-needs release ## the long forms: hours of fuzzing, 100 reloads, 200 kills, 1,000 slow clients, changes and upgrades under load, every abuse at once
	OSTLER_BIN=target/release/ostler $(PYTEST) -m soak --timeout 7200 e2e
	OSTLER_SOAK=1 cargo test --locked --quiet -p ostler certs::
	cargo xtask fuzz --planted
	cargo xtask fuzz --seconds $(FUZZ_SECONDS)

bench: needs test-needs release ## compare with nginx, gunicorn, uWSGI, Granian, uvicorn (ONLY=raw-wsgi ROUNDS=3 DURATION=4)
	cargo xtask bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DURATION),--duration $(DURATION))

wheel: needs $(E2E)/ready ## target/wheels/ostler-*.whl: `pip install` of it gives `ostler`
	$(E2E)/bin/maturin build --release --locked --strip --out target/wheels
	WHEELS=target/wheels $(PYTEST) e2e/test_wheel.py

clean: ## remove everything that was built
	rm -rf target e2e/.venv bench/.venv $(MARKET)/.venv $(MARKET)/market.db*

# The parts

needs:
	@need() { command -v "$$1" >/dev/null || { echo "ostler: $$1 is missing: $$2" >&2; exit 1; }; }; \
	need cargo "install Rust 1.90 or newer (rustup)"; \
	need gcc "apt-get install gcc libc6-dev"; \
	need curl "apt-get install curl"; \
	need $(PYTHON) "apt-get install python3 python3-venv"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "ostler: Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }

test-needs: $(E2E)/ready
	@missing=""; \
	for pair in $(TEST_PACKAGES); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "ostler: the tests need more packages: sudo apt-get install$$missing" >&2; exit 1; \
	fi

release:
	cargo build --release --locked

debug:
	cargo build --locked

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	cargo xtask tidy

deny: $(DENY)
	$(DENY) --log-level error check bans licenses sources
	@if timeout 20 git ls-remote --quiet $(ADVISORIES) HEAD >/dev/null 2>&1; then \
		$(DENY) --log-level error check advisories; \
	else \
		echo "advisories skipped: $(ADVISORIES) cannot be reached"; \
	fi

$(DENY):
	cargo install cargo-deny --version $(DENY_VERSION) --locked --debug --quiet --root target/tools

$(HTTPWG):
	cargo install httpwg-cli --version $(HTTPWG_VERSION) --locked --debug --quiet --root target/tools

unit:
	cargo test --locked --quiet

e2e: debug $(E2E)/ready $(HTTPWG)
	$(PYTEST) -n $(JOBS) $(MARKET)/tests
	cargo build --locked -p ostler-worker
	for part in $(wildcard e2e/asgi e2e/worker e2e/zygote); do \
		$(PYTEST) -n $(JOBS) -c /dev/null --rootdir $$part --confcutdir $$part $$part; \
	done
	$(PYTEST) -n $(JOBS) --ignore=e2e/asgi --ignore=e2e/worker --ignore=e2e/zygote e2e

wheel-test: $(E2E)/ready
	$(E2E)/bin/maturin build --profile dev --locked --quiet --out target/wheels-dev
	WHEELS=target/wheels-dev $(PYTEST) e2e/test_wheel.py

$(MARKET)/.venv/ready: $(MARKET)/requirements.txt
	@rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(E2E)/ready: e2e/requirements.txt
	@rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@
