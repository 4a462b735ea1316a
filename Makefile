# Run `make` for the list of commands.

# ------------------------------------------------------------------ what a caller may set

# A Python of version 3.11, 3.12 or 3.13; the first that is found, unless given.
PYTHON ?=
# cpu or cuda: the wheels of fbgemm and faiss. A .venv remembers its own.
ACCELERATOR ?= $(or $(shell cat .venv/.accelerator 2>/dev/null),cpu)
# Another index for torch, such as https://download.pytorch.org/whl/cpu (CPU wheels, some GB less).
TORCH_INDEX ?=
# The data set: complete_journey, parquet, or the name of a folder under data/.
DATA = complete_journey
# Train up to this time; `latest` trains on everything and judges nothing.
CUTOFF =
# More arguments for the command behind the target.
ARGS =
# Processes that `make test` uses.
TEST_WORKERS ?= 2

# ------------------------------------------------------------------ what the targets run

VENV := .venv
BIN := $(VENV)/bin
QUICKSTART = $(BIN)/python -m trainer.quickstart data=$(DATA) $(if $(CUTOFF),--cutoff $(CUTOFF))
REPORT = $(QUICKSTART) --report
SERVE = $(BIN)/python -m serving
# Data sets other than the default have their own dataset.json and feature_store.yaml.
FEAST_ENV = $(if $(filter-out complete_journey,$(DATA)),\
	SHOPREC_DATASET_JSON="$(CURDIR)/data/$(DATA)/dataset.json" \
	FEAST_FS_YAML_FILE_PATH="$(CURDIR)/data/$(DATA)/feature_store.yaml")
FEAST = $(FEAST_ENV) PYTHONWARNINGS=ignore::DeprecationWarning $(BIN)/feast -c feature_repo

STAMP := $(VENV)/.setup-$(ACCELERATOR)-$(firstword $(shell cat pyproject.toml constraints.txt | cksum))
# Quiet unless a person watches the progress bars.
PIP = $(BIN)/python -m pip --disable-pip-version-check install $(shell [ -t 2 ] || echo --quiet) \
	--no-warn-conflicts --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup doctor quickstart report serve feast test check format bench clean

help: ## this list
	@echo "shoprec: a recommender for shops, from feature store to answered request."
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables, as in \`make setup ACCELERATOR=cuda\`:"
	@echo "  ACCELERATOR=cpu|cuda   wheels to install (now: $(ACCELERATOR))"
	@echo "  PYTHON=python3.12      a Python of version 3.11, 3.12 or 3.13"
	@echo "  TORCH_INDEX=URL        another index for torch"
	@echo "  DATA=NAME              data set (now: $(DATA))"
	@echo "  CUTOFF=latest          train on everything"
	@echo "  ARGS=\"...\"             more arguments for the command behind the target"

setup: $(STAMP) ## make .venv with matching, pinned versions (ACCELERATOR=cuda for GPUs)
	@echo "$(VENV) is ready for $(ACCELERATOR)."

# torch first, so that nothing else chooses another; torchrec last and alone, for it asks for the
# CUDA wheel of fbgemm by name. The name of the stamp holds a hash of what is to be installed.
$(STAMP):
	@case "$(ACCELERATOR)" in cpu|cuda) ;; *) \
		echo "ACCELERATOR is '$(ACCELERATOR)', but must be cpu or cuda." >&2; exit 2;; esac
	@$(ensure_venv)
	@echo "Installing into $(VENV) for $(ACCELERATOR): minutes on a first run, mostly downloads."
	@rm -f $(VENV)/.setup-*
	@echo "[1/3] torch"
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "[2/3] dependencies and tools"
	@$(BIN)/python -c "$(print_requirements)" | $(PIP) --requirement /dev/stdin
	@echo "[3/3] torchrec and shoprec"
	@$(PIP) --no-deps torchrec
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
	@$(BIN)/python -m trainer.doctor

doctor: $(STAMP) ## say whether the installed versions and the driver match
	@$(BIN)/python -m trainer.doctor $(ARGS)

quickstart: $(STAMP) ## raw data to served, measured recommendations [DATA=parquet] [CUTOFF=latest]
	@$(QUICKSTART) $(ARGS)

report: $(STAMP) ## judge the test weeks, once, and write the README's table
	@$(REPORT) $(ARGS)

serve: $(STAMP) ## start the server on the current release
	@$(SERVE) $(ARGS)

feast: $(STAMP) ## run the Feast CLI: make feast ARGS="materialize START END"
	@$(FEAST) $(ARGS)

test: $(STAMP) ## run the tests [ARGS="-k NAME"] [SLOW=1: also those of minutes, as CI does]
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder \
		$(if $(SLOW),,-m "not slow") $(ARGS)

check: $(STAMP) ## ruff, mypy --strict and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## put the code into ruff's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## list the benchmarks; run one with python -m benchmarks.NAME
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove caches; .venv, data/, runs/ and releases/ stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis outputs multirun
	rm -rf build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# ------------------------------------------------------------------ .venv

supported := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

define print_requirements
import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['$(ACCELERATOR)'], *extras['dev'], sep='\n')
endef

# Keep a whole .venv that was made for this accelerator; make it anew otherwise.
define ensure_venv
set -e; \
if $(BIN)/python -m pip --version >/dev/null 2>&1 \
	&& $(BIN)/python -c '$(supported)' \
	&& [ "$$(cat $(VENV)/.accelerator 2>/dev/null || echo $(ACCELERATOR))" = "$(ACCELERATOR)" ]; \
then echo "$(ACCELERATOR)" > $(VENV)/.accelerator; exit 0; fi; \
found=; \
for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
	if "$$python" -c '$(supported)' 2>/dev/null; then found="$$python"; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "shoprec needs Python 3.11, 3.12 or 3.13; found$(if $(PYTHON), at PYTHON=$(PYTHON)):" \
		"$$($(or $(PYTHON),python3) --version 2>&1 || true)." >&2; \
	echo "Install one and name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; \
fi; \
echo "Making $(VENV) with $$("$$found" --version)."; \
"$$found" -m venv --clear $(VENV) || { \
	echo "$$found cannot make a virtual environment; on Debian and Ubuntu install" \
		"python3-venv." >&2; exit 2; }; \
echo "$(ACCELERATOR)" > $(VENV)/.accelerator
endef
