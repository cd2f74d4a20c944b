# Two commands matter: `make demo` (the whole loop on the toy world) and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(or $(TORCH),$(shell cat $(VENV)/.torch 2>/dev/null || (nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda) || echo cpu))
RUNTIME_LOCKS := requirements.lock requirements-torch-$(TORCH).lock
STAMP := $(VENV)/.installed-dev-$(TORCH)
RUNTIME_STAMP := $(VENV)/.installed-$(TORCH)
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
RUNS ?= runs
# one process of tests per core, four at most; PROCESSES= runs them in one
PROCESSES ?= -n auto --maxprocesses 4
FILMS ?= films
FILM := $(FILMS)/big-buck-bunny.mp4
FILM_CLIPS := $(FILMS)/scenes/clips.csv
SHORT_CLIPS := $(FILMS)/two-minutes/clips.csv
CLIPS ?= $(SHORT_CLIPS)
SEED ?= 0

export PYTHONSAFEPATH := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export OMP_WAIT_POLICY := PASSIVE
export OPENBLAS_NUM_THREADS := 1

.PHONY: help env demo demo-full demo-clips demo-film test check slow browser bench chaos golden docs format clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# what the loop needs; the other stamps go, because the environment has one build of torch
$(RUNTIME_STAMP): $(RUNTIME_LOCKS) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.installed*
	$(BIN)/python deploy/install_environment.py --torch $(TORCH)
	echo $(TORCH) > $(VENV)/.torch
	touch $(RUNTIME_STAMP)

$(STAMP): $(RUNTIME_LOCKS) requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.installed*
	$(BIN)/python deploy/install_environment.py --torch $(TORCH) --dev
	echo $(TORCH) > $(VENV)/.torch
	touch $(RUNTIME_STAMP) $(STAMP)

env: $(STAMP)  ## create the environment, with tests and notebooks; TORCH=cpu or cuda (default: cuda where there is a GPU)

demo: $(RUNTIME_STAMP)  ## the whole loop on the toy world: about three minutes on two cores
	$(BIN)/avpref retrain --config configs/toyworld.yaml --runs $(RUNS) --seed $(SEED)

demo-full: $(RUNTIME_STAMP)  ## the same, and the SFT network is trained too: about twice as long
	$(BIN)/avpref retrain --config configs/toyworld-full.yaml --runs $(RUNS) --seed $(SEED)

$(FILM): | $(RUNTIME_STAMP)
	$(BIN)/avpref prompts fetch-film --out $@

$(FILM_CLIPS): $(FILM) configs/film-texts.csv
	$(BIN)/avpref prompts cut $(FILM) --out $(@D) --texts configs/film-texts.csv --until-s 488 --scene-s 20

$(SHORT_CLIPS): $(FILM) configs/film-texts.csv
	$(BIN)/avpref prompts cut $(FILM) --out $(@D) --texts configs/film-texts.csv --until-s 120 --scene-s 20

# exit status 3: the gate refused, which is an answer
demo-clips: $(RUNTIME_STAMP) $(filter $(SHORT_CLIPS),$(CLIPS))  ## the whole loop on recordings: two minutes of a film, or CLIPS=clips.csv
	$(BIN)/avpref retrain --config configs/clips.yaml --set prompts.clips=$(CLIPS) --runs $(RUNS) --seed $(SEED) || test $$? -eq 3

demo-film: $(RUNTIME_STAMP) $(FILM_CLIPS)  ## the whole loop on a film, Big Buck Bunny, with held-out scenes
	$(BIN)/avpref retrain --config configs/film.yaml --set prompts.clips=$(FILM_CLIPS) --runs $(RUNS) --seed $(SEED) || test $$? -eq 3

test: $(STAMP)  ## the tests, in one process per core (four at most): about ten minutes on two cores
	$(BIN)/python -m pytest $(PROCESSES)

golden: $(STAMP)  ## numeric parity with the originals' vectors; AVPREF_GOLDEN names another folder of them
	$(BIN)/python -m pytest -m golden

slow: $(STAMP)  ## the proofs that take minutes
	$(BIN)/python -m pytest -m slow

browser: $(STAMP)  ## pages and report in Chromium: apt-get install chromium; pip install 'playwright>=1.65,<2'
	$(BIN)/python -m pytest -m browser -rs

check: $(STAMP)  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PROCESSES)

NEED_INPUT := benchmarks/compare_checkouts.py benchmarks/compare_demo.py benchmarks/learned_scorers.py benchmarks/preparation.py benchmarks/readme_images.py

bench: $(STAMP)  ## every benchmark script that needs no input; each writes its dated result beside itself
	for script in $(filter-out $(NEED_INPUT),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

chaos: $(STAMP)  ## kills by the hundred, with SIGKILL; writes benchmarks/chaos.md
	$(BIN)/python benchmarks/chaos.py

$(DOCS_STAMP): docs-requirements.lock
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r docs-requirements.lock
	touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --no-cache --fix .

clean:
	rm -rf $(VENV) $(DOCS_VENV) build site src/*.egg-info
