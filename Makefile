# Every target sets up what it needs: the environment in .venv, the model in the cache.
#   make figures TORCH="torch==2.13.0 --index-url <a PyTorch index>"   chooses another torch build.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= reports/out
TORCH  ?= torch==2.13.0
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/.tools
JOBS   ?= logical
PAPER  ?= vhd
CROSSLENS := $(BIN)/crosslens

# What was compiled is kept, also where the machine says otherwise: the tests start a hundred processes, each of which
# would compile torch and transformers again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup figures figures-full paper card report scenes-model scenes-prior browser test families check bench bench-short notebooks docs cover clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(TOOLS) ## the environment in .venv, with what tests and lint need

# torch first and alone, so that no other package chooses its build. Python compiles what it imports when it does;
# pip would compile all packages, most of which nothing here imports, and take longer than the download.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt $(TORCH)
	$(BIN)/pip install -q --no-compile -c constraints.txt -e .
	@touch $@

$(TOOLS): $(READY)
	$(BIN)/pip install -q --no-compile -c constraints.txt -e ".[dev,static]"
	@touch $@

# A recipe runs what is missing of its runs, and then builds the report (analyses/recipes/).
figures: $(READY) ## the paper-style figures on the embedded model, small n
	$(CROSSLENS) recipe tour --out $(OUT)

figures-full: $(READY) ## the same with the papers' n
	$(CROSSLENS) recipe full --out $(OUT)

paper: $(READY) ## the figures of one paper: make paper PAPER=vhd (crosslens list shows all)
	$(CROSSLENS) recipe $(PAPER) --out $(OUT)

card: $(READY) ## the page of the scenes subject: what it sees, makes up, and has kept (half an hour)
	$(CROSSLENS) recipe card --out $(OUT)

# Goes on where it was killed. The test split is looked at once, when the training is over.
scenes-model: $(READY) ## train the scenes subject from nothing: up to 2 hours; result in $(OUT)/scenes; CHECKPOINTS=6 keeps some on the way
	$(BIN)/python -m crosslens.data.subjects.training --out $(OUT)/scenes --checkpoints $(or $(CHECKPOINTS),0)
	$(BIN)/python -m crosslens.data.subjects.training.evaluate $(OUT)/scenes/scenes.safetensors

# Goes on from the checkpoint that ships.
scenes-prior: $(READY) ## plant a prior into the scenes subject: 10 minutes; result in $(OUT)/scenes-prior
	$(BIN)/python -m crosslens.data.subjects.training.prior --out $(OUT)/scenes-prior --checkpoints $(or $(CHECKPOINTS),0)
	$(BIN)/python -m crosslens.data.subjects.training.evaluate $(OUT)/scenes-prior/scenes.safetensors --n 2000 --difficulty clear hard

report: $(READY) ## pages from the runs that are there, no model
	$(CROSSLENS) report --out $(OUT)

# Pages are opened in Chromium where there is one; Debian's is installed where we may.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
	  >/dev/null; } || echo "no chromium: the tests that open pages are skipped"

# A process per core (JOBS), each with its part of the threads.
test: $(TOOLS) browser ## all tests
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

# Goes on where it was killed, with the same code and transformers.
families: $(TOOLS) ## every model type of the installed transformers: exact, in part or refused (10 minutes)
	$(BIN)/python -m crosslens.tests.sweep

check: $(TOOLS) ## lint, types, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	cd / && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

bench: $(TOOLS) ## times and memory as ratios to plain forwards
	$(BIN)/python tests/bench.py
	$(BIN)/python tests/bench_look.py

bench-short: $(TOOLS) ## whether a forward through an opened subject costs what a plain one does
	$(BIN)/python tests/bench.py --short

notebooks: $(TOOLS) browser ## run the notebooks in place, with still figures (SVG) that a code host shows
	$(BIN)/python reports/notebooks/run.py reports/notebooks/*.ipynb

docs: $(TOOLS) ## pages of all functions: $(OUT)/api/index.html
	cd / && $(CURDIR)/$(BIN)/pdoc -d markdown --no-show-source -o $(abspath $(OUT))/api \
	  crosslens.data crosslens.probes crosslens.analyses crosslens.reports

# From runs that `make figures` has left.
cover: $(TOOLS) browser ## the README's picture, light and dark, from the report's runs
	$(BIN)/python -m crosslens.reports.pages.cover $(OUT)

clean: ## delete environment, runs and pages (the model stays in the cache)
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
