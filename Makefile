# Every target sets up what it needs: a virtual environment in .venv, the pinned dependencies of
# requirements/, an engine that fits this machine, and hcache itself (see scripts/install.sh).
# A second run finds all that in place. To choose the interpreter: make PYTHON=python3.11 test

BIN := .venv/bin
MINUTES ?= 10
SEED ?= 0
export PYTHON ENGINE TORCH_INDEX
KILLS ?= 1000
VLLM_KILLS ?= 20
EVERY ?= 1

.PHONY: help setup demo test torture fuzz lint lock clean

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

setup: ## set up .venv
	@scripts/install.sh

demo: setup ## sample, train and evaluate the demo
	$(BIN)/hcache demo

test: lint ## run the checks of lint, then the tests on all cores, warnings being errors
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

torture: setup ## kill sampling (KILLS, VLLM_KILLS) and fail at EVERY n-th call: what it makes stays
	$(BIN)/python -m benchmarks.torture --kills $(KILLS) --requests 100 --queries 40
	$(BIN)/python -m benchmarks.torture --every $(EVERY)
	$(BIN)/python -m benchmarks.torture --vllm $(VLLM_KILLS)

fuzz: setup ## feed hostile inputs to each target of tests/fuzz for MINUTES of CPU time (10)
	@failed=; for target in $$($(BIN)/python -m tests.fuzz --list); do \
		$(BIN)/python -m tests.fuzz $$target --minutes $(MINUTES) --seed $(SEED) || failed=1; \
	done; test -z "$$failed"

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: ## write the lock files anew from pyproject.toml
	scripts/lock.sh

clean: ## remove .venv, caches and build products; runs/ and models/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
