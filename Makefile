# `make` alone prints the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UI_SOURCES := $(shell find api/ui -type f -not -path '*/node_modules/*' 2>/dev/null)
export OMP_NUM_THREADS ?= 1
# Two processes, a test file at a time and in their order: the long ones of faults/ and e2e/ come first, doctests fill the end.
PYTEST := $(BIN)/pytest -n $(or $(TESTS_AT_ONCE),2) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install ui browser demo demo-front zoo zoo-table serve methods fmt lint types test test-all test-vllm ci lock clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

install: $(VENV)/.installed ## create .venv from the lock file

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "evomerge needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Use: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@# torch by itself first: a CPU build that pip finds is taken instead of the one with CUDA.
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet -r requirements.lock
	EVOMERGE_SKIP_UI=1 $(BIN)/pip install --quiet --no-deps -e .
	@touch $@

ui: api/static/index.html ## build the dashboard

api/static/index.html: $(UI_SOURCES) | install
	$(BIN)/python -m api.ui_build

browser: ## install Chromium for the dashboard's tests where it is missing
	@sh scripts/browser.sh

demo: install ui ## the main job on real models: search, watch, download, merge (see README)
	$(BIN)/python experiments/demo/demo.py experiments/demo/japanese_arithmetic.yaml

demo-front: install ui ## the same models with two objectives: a front
	$(BIN)/python experiments/demo/demo.py experiments/demo/two_objectives.yaml

zoo: install ## train the demo's adapters again and make their table (15 to 30 CPU minutes)
	$(BIN)/python experiments/zoo/base.py
	$(BIN)/python experiments/zoo/skills.py
	$(BIN)/python experiments/zoo/train.py
	$(BIN)/python experiments/zoo/table.py

zoo-table: install ## score base, sources and known mixes on every skill's holdout items
	$(BIN)/python experiments/zoo/table.py

serve: install ui ## start the service on http://127.0.0.1:8765/
	$(BIN)/evomerge serve

methods: install ## write docs/methods.md anew
	$(BIN)/python scripts/methods_table.py

fmt: install ## format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

lint: install ## ruff, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install ## mypy --strict
	$(BIN)/mypy

test: lint types ui browser ## everything that CI runs: lint, types, import contracts, tests
	$(PYTEST)

test-all: lint types ui browser ## the long tests too
	$(PYTEST) -m ""

test-vllm: ## generated answers by vLLM, in an environment that has it: make test-vllm VLLM=vllm/bin/python
	$(VLLM) -m pytest -m slow tests/fitness/test_vllm_decoder.py tests/workers/test_vllm_run.py

ci: test ## what CI runs

lock: ## resolve the dependencies anew into requirements.lock
	sh scripts/lock.sh $(PYTHON)

clean: ## remove what was built (not the models' cache)
	rm -rf $(VENV) api/static api/ui/node_modules demo .mypy_cache .ruff_cache .pytest_cache
