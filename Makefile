# Every target sets up what it needs: the environment in .venv, the model in the cache.
#   make figures TORCH="torch==2.13.0 --index-url <a PyTorch index>"   chooses another torch build.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= reports/out
TORCH  ?= torch==2.13.0
READY  := $(VENV)/.ready
RUN    := $(BIN)/crosslens run

.DEFAULT_GOAL := help
.PHONY: help setup figures figures-full card report scenes-model scenes-prior browser test check bench notebooks clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## the environment in .venv

# torch first and alone, so that no other package chooses its build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e ".[dev,static]"
	@touch $@

figures: $(READY) ## the paper-style figures on the embedded model, small n
	$(RUN) sinks --task passages --bos both --limit 32 --out $(OUT)
	$(RUN) lenses --task ioi facts --limit 72 --out $(OUT)
	$(RUN) information_flow --task facts --limit 32 --out $(OUT)
	$(RUN) information_flow --subject scenes --task scenes:kinds=colour+shape+existence,difficulty=clear --limit 24 \
	  --out $(OUT)
	$(RUN) logit_attribution --task ioi --limit 24 --out $(OUT)
	$(RUN) group_lens --task translation --limit 60 --out $(OUT)
	$(RUN) learned_lenses --task passages --limit 16 --out $(OUT) --learned_lenses.passages 24 \
	  --learned_lenses.layers none --learned_lenses.tuned-steps 0
	$(RUN) image_lens --subject scenes --task scenes:kinds=colour+shape --limit 32 --out $(OUT)
	$(RUN) circuits --task ioi colored_objects --limit 27 --out $(OUT)
	$(RUN) steering --task colored_objects --limit 54 --out $(OUT)
	$(RUN) head_divergence --subject scenes --task scenes:kinds=caption,difficulty=hard --limit 48 \
	  --answer-tokens 32 --out $(OUT)
	$(RUN) sinks --subject scenes --task scenes:kinds=colour+existence --limit 24 --sinks.draws 20 \
	  --sinks.roles special text question image --out $(OUT)
	$(RUN) repairs --subject scenes --task scenes:kinds=pope_adversarial,difficulty=hard --limit 16 \
	  --repairs.draws 20 --repairs.alphas 2 --repairs.ps 0.4 --repairs.betas 0.4 --out $(OUT)
	$(BIN)/crosslens overlap --out $(OUT)
	$(BIN)/crosslens report --out $(OUT)

figures-full: $(READY) ## the same with the papers' n
	$(RUN) sinks --task passages --bos both --out $(OUT)
	$(RUN) lenses --task ioi facts --out $(OUT)
	$(RUN) information_flow --task facts ioi --limit 256 --out $(OUT)
	$(RUN) information_flow --subject scenes --limit 400 --task \
	  scenes:kinds=colour+shape+existence+coloured_existence+left_right+above_below+count,difficulty=clear --out $(OUT)
	$(RUN) logit_attribution --task ioi facts --out $(OUT)
	$(RUN) group_lens --task translation --out $(OUT)
	$(RUN) learned_lenses --task passages --out $(OUT)
	$(RUN) image_lens --subject scenes --task scenes:kinds=colour+shape --limit 120 --out $(OUT)
	$(RUN) circuits --task ioi colored_objects colored_objects:shots=2 greater_than facts arithmetic induction --limit 256 --out $(OUT)
	$(RUN) faithfulness --task ioi colored_objects greater_than facts arithmetic induction --limit 64 --out $(OUT)
	$(RUN) edges --task ioi colored_objects greater_than facts arithmetic induction --limit 64 --out $(OUT)
	$(RUN) steering --task colored_objects colored_objects:shots=2 --out $(OUT)
	$(RUN) head_divergence --subject scenes --task scenes:kinds=caption,difficulty=hard --limit 256 \
	  --answer-tokens 32 --out $(OUT)
	$(RUN) sinks --subject scenes --task scenes:kinds=colour+existence --limit 128 --sinks.draws 20 \
	  --sinks.roles special text question image --out $(OUT)
	$(RUN) repairs --subject scenes --task scenes:kinds=pope_adversarial,difficulty=hard --limit 96 \
	  --batch-size 8 --out $(OUT)
	$(RUN) repairs --subject scenes_prior --task scenes:kinds=pope_adversarial,difficulty=hard --limit 96 \
	  --batch-size 8 --out $(OUT)
	$(BIN)/crosslens overlap --out $(OUT)
	$(BIN)/crosslens report --out $(OUT)

card: $(READY) ## the page of the scenes subject: what it sees, makes up, and has kept (half an hour)
	$(RUN) subject_card --subject scenes --task scenes:kinds=all,difficulty=all --limit 5500 --out $(OUT)
	$(BIN)/crosslens report --out $(OUT)

# Goes on where it was killed. The test split is looked at once, when the training is over.
scenes-model: $(READY) ## train the scenes subject from nothing: up to 2 hours; result in $(OUT)/scenes
	$(BIN)/python -m crosslens.data.subjects.training --out $(OUT)/scenes
	$(BIN)/python -m crosslens.data.subjects.training.evaluate $(OUT)/scenes/scenes.safetensors

# Goes on from the checkpoint that ships.
scenes-prior: $(READY) ## plant a prior into the scenes subject: 10 minutes; result in $(OUT)/scenes-prior
	$(BIN)/python -m crosslens.data.subjects.training.prior --out $(OUT)/scenes-prior
	$(BIN)/python -m crosslens.data.subjects.training.evaluate $(OUT)/scenes-prior/scenes.safetensors --n 2000 --difficulty clear hard

report: $(READY) ## pages from the runs that are there, no model
	$(BIN)/crosslens report --out $(OUT)

# Pages are opened in Chromium where there is one; Debian's is installed where we may.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
	  >/dev/null; } || echo "no chromium: the tests that open pages are skipped"

test: $(READY) browser ## all tests
	$(BIN)/python -m pytest

check: $(READY) ## lint, types, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	cd / && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

bench: $(READY) ## times and memory as ratios to plain forwards
	$(BIN)/python tests/bench.py

notebooks: $(READY) ## run the notebooks in place
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace reports/notebooks/*.ipynb

clean: ## delete environment, runs and pages (the model stays in the cache)
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
