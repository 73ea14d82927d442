# `make demo` and `make test` create .venv when there is none and install everything themselves.
PYTHON ?= python3
BIN := .venv/bin
PROTO := ray_mlops/serving/dialects/open_inference

.PHONY: demo test lint unit conformance nodes gpu protocol clean help

help: ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[demo,dev,postgres,s3]'
	touch $@

demo: .venv/.installed ## A year of flights: train, serve, drift, retrain, roll out, roll back.
	$(BIN)/ray-mlops demo

test: .venv/.installed lint ## Lint, types and every test (under 15 minutes on 2 cores).
	$(BIN)/python -m pytest

unit: .venv/.installed ## The tests that need no Ray; seconds.
	$(BIN)/python -m pytest tests/unit ray_mlops -q

conformance: .venv/.installed ## Stock clients and schemathesis against a small live service.
	$(BIN)/python tests/conformance/run.py

nodes: .venv/.installed ## Three nodes, S3, PostgreSQL, and packages of a candidate's own: minutes.
	$(BIN)/python -m pytest tests/cluster

gpu: ## The tests that need a GPU, with the Python that runs now and its torch.
	$(PYTHON) -m pytest tests/gpu

protocol: ## The messages of gRPC from their definition, by a pinned generator in a scratch environment.
	$(PYTHON) -m venv build/protocol
	build/protocol/bin/python -m pip install --quiet 'grpcio-tools==1.62.3' 'setuptools<81'
	build/protocol/bin/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. $(PROTO).proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(PROTO)_pb2.py
	sed -i '1i # Made by `make protocol` from open_inference.proto; never edited.\n# ruff: noqa\n# fmt: off\n# mypy: ignore-errors' \
		$(PROTO)_pb2.py $(PROTO)_pb2.pyi

lint: .venv/.installed ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ray_mlops jobs

clean: ## Remove the environment and the store.
	rm -rf .venv .ray_mlops
