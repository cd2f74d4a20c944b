# Two commands matter: `make demo` (the whole loop on the toy world) and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
RUNS ?= runs
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

.PHONY: help env demo demo-clips demo-film test check slow bench chaos golden docs format clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

env: $(STAMP)  ## create the environment

demo: $(STAMP)  ## the whole loop on the toy world: 7 to 10 minutes on two cores
	$(BIN)/avpref retrain --config configs/toyworld.yaml --runs $(RUNS) --seed $(SEED)

$(FILM): | $(STAMP)
	$(BIN)/avpref prompts fetch-film --out $@

$(FILM_CLIPS): $(FILM) configs/film-texts.csv
	$(BIN)/avpref prompts cut $(FILM) --out $(@D) --texts configs/film-texts.csv --until-s 488 --scene-s 20

$(SHORT_CLIPS): $(FILM) configs/film-texts.csv
	$(BIN)/avpref prompts cut $(FILM) --out $(@D) --texts configs/film-texts.csv --until-s 120 --scene-s 20

demo-clips: $(STAMP) $(filter $(SHORT_CLIPS),$(CLIPS))  ## the whole loop on recordings: two minutes of a film, or CLIPS=clips.csv
	$(BIN)/avpref retrain --config configs/clips.yaml --set prompts.clips=$(CLIPS) --runs $(RUNS) --seed $(SEED)

demo-film: $(STAMP) $(FILM_CLIPS)  ## the whole loop on a film, Big Buck Bunny, with held-out scenes
	$(BIN)/avpref retrain --config configs/film.yaml --set prompts.clips=$(FILM_CLIPS) --runs $(RUNS) --seed $(SEED)

test: $(STAMP)  ## the tests: about 15 minutes on two cores
	$(BIN)/python -m pytest

golden: $(STAMP)  ## numeric parity with the originals' vectors; AVPREF_GOLDEN names another folder of them
	$(BIN)/python -m pytest -m golden

slow: $(STAMP)  ## the proofs that take minutes
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/python -m pytest

NEED_INPUT := benchmarks/compare_checkouts.py benchmarks/learned_scorers.py benchmarks/preparation.py benchmarks/readme_images.py

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
