# `make demo` and `make test` create .venv when there is none and install everything themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint unit clean help

help: ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[demo,dev,postgres]'
	touch $@

demo: .venv/.installed ## A year of flights: train, serve, drift, retrain, roll out, roll back.
	$(BIN)/ray-mlops demo

test: .venv/.installed lint ## Lint, types and every test (under 15 minutes on 2 cores).
	$(BIN)/python -m pytest

unit: .venv/.installed ## The tests that need no Ray; seconds.
	$(BIN)/python -m pytest tests/unit ray_mlops -q

lint: .venv/.installed ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ray_mlops jobs

clean: ## Remove the environment and the store.
	rm -rf .venv .ray_mlops
