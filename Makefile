# flowood: every door to the project. `make` lists them; each makes its environment when it is missing.

PYTHON    ?= python3
INSTALLER ?= uv
PROFILE   ?= quick
EXECUTOR  ?= local

BIN       := .venv/bin
PRESETS   := flowood_core/profiles
HOST_PATH := $(PATH)
# a path as one word of the shell, whatever is in it: "My Drive", "it's"
quoted     = '$(subst ','\'',$(1))'

export PATH := $(CURDIR)/$(BIN):$(PATH)
# uv reads only its own list of certificates unless told; the system's list is right behind a proxy and elsewhere
UV_SYSTEM_CERTS ?= 1
export UV_SYSTEM_CERTS
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# FrEIA and one dependency of snakemake have no wheel. What builds them comes out of the lock too, so nothing
# is fetched that has no hash.
FIRST := uv|setuptools|wheel

.DEFAULT_GOAL := help
.PHONY: help setup reproduce train status plan data test check notebooks badges site bench bench-gpu cards readme subsets lock lab clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PROFILE=quick|sample|paper  EXECUTOR=local|slurm|kubernetes  PYTHON=python3.12  INSTALLER=uv|pip"

setup: .venv/.ok ## the environment in .venv: locked, checked by hash, about 6 GB
	@echo "Environment ready in .venv"

reproduce: .venv/.ok ## every table and figure of PROFILE, by EXECUTOR; the first figure in a minute, the page at the end
	@test -f $(PRESETS)/$(PROFILE).yaml || { \
	  echo "There is no profile '$(PROFILE)'. Profiles: $(patsubst $(PRESETS)/%.yaml,%,$(wildcard $(PRESETS)/*.yaml))"; exit 1; }
	@echo "Reproducing profile '$(PROFILE)' with executor '$(EXECUTOR)'. Run by run, from another terminal: make status"
	@$(BIN)/python -m workflow.reproduce $(PROFILE) $(EXECUTOR)

train: .venv/.ok ## the missing runs of PROFILE alone, side by side on a GPU; TABLES="table_2 fig_6" picks some
	@$(BIN)/python -m flowood_core train $(PROFILE) $(if $(TABLES),--tables $(TABLES))

status: .venv/.ok ## which runs of PROFILE are done, running or missing, and how long is left; also as a page
	@$(BIN)/python -m flowood_core status --page $(PROFILE)

plan: .venv/.ok ## what `make reproduce` would do now, without doing it, and about how long it would take
	@$(BIN)/snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/$(EXECUTOR) --config profile=$(PROFILE) --dry-run --quiet all || true
	@$(BIN)/python -m flowood_core status $(PROFILE)

data: .venv/.ok ## fetch and prepare SETS="cifar10 svhn"; without SETS, what is here and what it looks like
	@$(BIN)/python -m flowood_core data $(SETS)

test: .venv/.ok ## all tests
	@$(BIN)/python -m pytest -q

check: .venv/.ok ## lint, format, and notebooks against their sources
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -q tests/repository/test_pairing.py

notebooks: .venv/.ok ## notebooks/*.ipynb anew from nbs_src/*.py (one way: the source wins)
	@for source in nbs_src/*.py; do echo "$$source"; done
	@$(BIN)/python -c 'import pathlib; from jupytext.cli import jupytext; \
	  [jupytext(["--quiet", "--to", "ipynb", "--output", f"notebooks/{p.stem}.ipynb", str(p)]) \
	   for p in sorted(pathlib.Path("nbs_src").glob("*.py"))]'
	@$(BIN)/nbstripout notebooks/*.ipynb  # cell ids become 0, 1, 2 ...: the same source gives the same bytes

bench: .venv/.ok ## speed beside what one would otherwise write, about 10 minutes; benchmarks/README.md
	@$(BIN)/python -m benchmarks.bench

bench-gpu: .venv/.ok ## the same on a GPU, about 8 minutes; without make: python -m benchmarks.bench_gpu
	@$(BIN)/python -m benchmarks.bench_gpu

site: .venv/.ok ## the results of PROFILE as a folder of pages with search, for any static host or none; takes seconds
	@$(BIN)/python -m flowood_core site $(PROFILE)

badges: .venv/.ok ## stamp the address of the git remote into badges, bootstrap cells and pyproject.toml
	@FLOWOOD_ROOT=$(call quoted,$(CURDIR)) $(BIN)/python -m workflow.publish.badges
	@$(MAKE) --no-print-directory notebooks

cards: .venv/.ok ## models/ anew from the committed runs: detectors with their pages
	@FLOWOOD_OUTPUTS=$(call quoted,$(CURDIR)/outputs) $(BIN)/python -m workflow.publish.model_cards

readme: .venv/.ok ## README's headline, RESULTS.md and FINDINGS.md anew from the committed runs
	@FLOWOOD_OUTPUTS=$(call quoted,$(CURDIR)/outputs) $(BIN)/python -m workflow.publish

subsets: .venv/.ok ## outputs/sample/subsets: which images the committed runs were made of, by position and hash
	@FLOWOOD_OUTPUTS=$(call quoted,$(CURDIR)/outputs) $(BIN)/python -m workflow.publish.subsets

lock: .venv/.ok ## requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --quiet $(LOCK_FLAGS) -o requirements.lock

lab: .venv/.ok ## JupyterLab, opened on the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

clean: ## caches and the quick results; keeps .venv, data and every other result
	rm -rf outputs/quick .pytest_cache .hypothesis .ruff_cache build dist
	find flowood_core tests nbs_src notebooks workflow -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# Safe to interrupt and to repeat: .installing marks a set-up that was cut short, and the next one starts clean.
.venv/.ok: requirements.lock pyproject.toml
	@export PATH=$(call quoted,$(HOST_PATH)); \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "flowood needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)."; \
	  echo "If a newer one is installed, name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make environments: its modules venv and ensurepip are missing."; \
	  echo "Install them (Debian, Ubuntu: the package python3-venv), or name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	echo "[1/4] environment: the folder .venv (about 5 s)"; \
	if [ -e .venv/.installing ]; then echo "      the last set-up was cut short, starting clean"; rm -rf .venv; fi; \
	mkdir -p .venv && touch .venv/.installing && $(PYTHON) -m venv .venv
	@awk '/^[a-z]/ {keep = ($$0 ~ /^($(FIRST))==/)} keep' requirements.lock > .venv/first.lock
	@quiet=$$([ -t 2 ] || echo --quiet); done=no; \
	if [ "$(INSTALLER)" = uv ]; then \
	  echo "[2/4] installer: uv and what builds packages (about 5 s)"; \
	  if $(BIN)/python -m pip install -q --no-deps --require-hashes -r .venv/first.lock; then \
	    echo "[3/4] packages: the lock, by hash (first time 2 to 10 minutes, later seconds; about 6 GB of disk)"; \
	    $(BIN)/uv pip sync $$quiet --require-hashes --no-build-isolation --python $(BIN)/python requirements.lock \
	      && echo "[4/4] flowood itself, editable (about 2 s)" \
	      && $(BIN)/uv pip install -q --no-deps --no-build-isolation --python $(BIN)/python -e . \
	      && done=yes; \
	  fi; \
	  [ $$done = yes ] || echo "uv could not do it (see above); the same with plain pip:"; \
	fi; \
	if [ $$done = no ]; then \
	  set -e; \
	  echo "[2/4] installer: pip and what builds packages (about 5 s)"; \
	  awk '/^[a-z]/ {keep = ($$0 !~ /^uv==/)} keep' .venv/first.lock > .venv/first_pip.lock; \
	  $(BIN)/python -m pip install -q --no-deps --require-hashes -r .venv/first_pip.lock; \
	  awk '/^[a-z]/ {keep = ($$0 !~ /^uv==/)} keep' requirements.lock > .venv/all_pip.lock; \
	  echo "[3/4] packages: the lock, by hash (first time 3 to 15 minutes; about 6 GB of disk)"; \
	  $(BIN)/python -m pip install -q --require-hashes --no-build-isolation -r .venv/all_pip.lock; \
	  echo "[4/4] flowood itself, editable (about 5 s)"; \
	  $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .; \
	fi
	@rm .venv/.installing
	@touch $@
