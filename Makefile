# media-service. Every target works from any folder: make -C path/to/media-service TARGET
SHELL := /bin/sh
.DEFAULT_GOAL := help
python := .venv/bin/python
# A process for each core, and one more for tests that wait for servers; four at most, for each
# process starts servers of its own, which want memory.
cores := $(shell nproc)
pytest := $(python) -m pytest --dist worksteal --maxprocesses 4 --numprocesses

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: ## Run everything here on http://127.0.0.1:8000 (PORT=… for another); Ctrl-C stops it
	@scripts/make-venv .venv requirements-worker.txt requirements-local.txt
	@exec $(python) -m devstack.run

.PHONY: test
test: venv ## Run all tests, on real PostgreSQL, RabbitMQ, SeaweedFS and Chromium
	@scripts/install-test-services
	$(pytest) $(shell expr $(cores) + 1) $(ARGS)

.PHONY: test-fast
test-fast: venv ## Run the short tests, which need no server and no browser
	$(pytest) $(cores) --ignore=tests/browser -m "not slow" $(ARGS)

.PHONY: coverage
coverage: venv ## Run all tests but chaos and browser; show lines and branches that none of them takes
	@scripts/install-test-services
	$(pytest) $(shell expr $(cores) + 1) --ignore=tests/chaos --ignore=tests/browser --cov $(ARGS)

.PHONY: chaos
chaos: venv ## Break everything while it is used, then check the books (N=300 SEED=…)
	@scripts/install-test-services
	@$(python) -m tests.chaos.main

.PHONY: bench
bench: venv ## Measure it all beside references (ROWS=10000 PHOTOS=folder ARGS=--help)
	@scripts/make-venv .venv requirements-bench.txt
	@scripts/make-venv var/deployed requirements.txt requirements-worker.txt
	@scripts/install-test-services
	$(python) -m benchmarks --python var/deployed/bin/python $(if $(ROWS),--rows $(ROWS)) $(if $(PHOTOS),--photos "$(PHOTOS)") $(ARGS)

.PHONY: lint
lint: venv ## Check style and types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

.PHONY: format
format: venv ## Put the code in shape
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

.PHONY: openapi
openapi: venv ## Write docs/openapi.json anew from the code
	$(python) -m docgen.openapi

.PHONY: contract
contract: venv ## Write docs/messages/ and the tables of docs/contract.md anew from the code
	$(python) -m docgen.messages
	$(python) -m docgen.contract

.PHONY: settings
settings: venv ## Write docs/settings.md's tables and .env.example anew from the code
	$(python) -m docgen.settings

.PHONY: venv
venv: ## Make .venv, or bring it up to date
	@scripts/make-venv .venv requirements-dev.txt

.PHONY: requirements
requirements: venv ## Pin the requirement files anew
	@for name in requirements requirements-worker requirements-local requirements-otel requirements-dev requirements-bench; do \
		$(python) -m piptools compile --quiet --upgrade --strip-extras --no-header --no-annotate \
			--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --allow-unsafe \
			--output-file $$name.txt $$name.in || exit 1; \
	done

.PHONY: clean
clean: ## Remove .venv, caches and the data of `make run`
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache var artifacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
