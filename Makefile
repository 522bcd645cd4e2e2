# Every target sets up what it needs; nothing is installed twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Crossdock needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv
venv: $(STAMP) ## the virtual environment, from the lock file

.PHONY: demo
demo: $(STAMP) ## a month of real data through a real Kafka and three systems; ARGS="--json --kill 3"
	$(BIN)/crossdock demo $(ARGS)

.PHONY: test
test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -q $(ARGS)

SCENARIO ?= all
SEED ?= 1
MINUTES ?= 1
EVENTS ?= 20000

.PHONY: chaos
chaos: $(STAMP) ## the fault campaign; SEED=7 SCENARIO=kill,zombie MINUTES=5 EVENTS=100000 ARGS=--schedule
	$(BIN)/python -W ignore -m tests.chaos.campaign --seed $(SEED) --scenario $(SCENARIO) --minutes $(MINUTES) --events $(EVENTS) $(ARGS)

.PHONY: lint
lint: $(STAMP) ## style, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: schema
schema: $(STAMP) ## the JSON schemas of the files, for editors
	$(BIN)/python -m crossdock.configuration.schema config/schema

.PHONY: bench
bench: $(STAMP) ## what a row costs in the model step, and what safety costs
	$(BIN)/python -m benchmarks.model_step
	$(BIN)/python -m benchmarks.safety
