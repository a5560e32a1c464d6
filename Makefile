# The two commands to know: `make demo` and `make test`. Both set everything up first, and reuse what is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RESULTS := benchmarks/results
# The peers that the kernels are compared with. fbi_la is on no package index, and is as it was when its benchmark was
# published; the pack does without a peer that cannot be had.
FLA ?= fla-core==0.6.0
FBI_LA ?= https://github.com/fla-org/flash-bidirectional-linear-attention
FBI_LA_COMMIT ?= f075860

# Tests and demo never ask the Hub; idle OpenMP threads sleep instead of spinning, which matters on small machines.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test test-slow check format docs mini mini-linfusion bench bench-convert bench-distill gpu-pack lock clean

help: ## Print this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(READY) ## Set up, then convert the shipped model, draw with it and validate its distilled weights (under 5 minutes).
	$(BIN)/linzoo demo --out out/demo

test: $(READY) ## Set up, then run the fast tests.
	$(BIN)/python -m pytest

test-slow: $(READY) ## The tests that take long or write gigabytes.
	$(BIN)/python -m pytest -m slow

check: $(READY) ## Lint, format, types, import contracts, generated docs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(READY) ## Put the code into shape.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## Write the generated pages of docs/ anew.
	$(BIN)/python docs/generate.py

mini: $(READY) ## Train the shipped model from scratch (minutes on a GPU, hours on a CPU; resumable).
	$(BIN)/python -m linzoo_recipes.mini all --out out/mini

bench: export OMP_NUM_THREADS := 1
bench: $(READY) ## Time linear attention and whole layers on one core of this machine: tables, rows, plots (ten minutes).
	rm -rf out/bench
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench kernels --out out/bench/kernels-cpu.csv
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench layer --out out/bench/layer-cpu.csv
	$(BIN)/linzoo bench report out/bench/kernels-cpu.csv --plot out/bench/kernels-cpu.png
	$(BIN)/linzoo bench report out/bench/layer-cpu.csv --plot out/bench/layer-cpu.png
	mv out/bench/*-cpu.* $(RESULTS)/

bench-convert: $(READY) ## Memory and time of convert against cp and against diffusers (needs 30 GB of disk).
	$(BIN)/linzoo bench convert --out $(RESULTS)/convert-cpu.csv
	$(BIN)/linzoo bench remote-convert --out $(RESULTS)/remote-convert-cpu.csv

bench-distill: export OMP_NUM_THREADS := 1
bench-distill: $(READY) ## Distil mini from the published recipe to linzoo's on one core: rows and docs/results (an hour, resumable).
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench distill resolution --results $(RESULTS)
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench distill speed --results $(RESULTS)
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench distill ablation --results $(RESULTS)
	CUDA_VISIBLE_DEVICES= $(BIN)/linzoo bench distill transfer --results $(RESULTS)
	$(BIN)/linzoo bench distill report --results $(RESULTS)

mini-linfusion: $(READY) ## Distil the shipped model, as its shipped weights were (an hour on a CPU; resumable).
	test -d out/mini-converted || $(BIN)/linzoo convert mini out/mini-converted
	$(BIN)/linzoo distill out/mini-converted --teacher mini --out out/mini-distilled --resume latest \
	  --set distill.steps=3000 --set data.sampling.per_prompt=2 --set validation.every=500 --set saving.every=500
	cp out/mini-distilled/linfusion/* plugins/linzoo_mini/weights/linfusion/

gpu-pack: $(READY) ## Collect in out/gpu what benchmarks/on_gpu.sh needs on a machine without a network (Python 3.12).
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --dest out/gpu/wheels \
	  --constraint requirements.lock diffusers resvg-py ml-dtypes pluggy accelerate pydantic pydantic-core annotated-types typing-inspection PyYAML \
	  torchmetrics lightning-utilities matplotlib contourpy cycler fonttools kiwisolver pyparsing efficientnet-lite-pytorch
	-$(BIN)/python -m pip download --quiet --no-deps --dest out/gpu/wheels $(FLA)
	-test -d out/gpu/peers || git clone --quiet $(FBI_LA) out/gpu/peers && git -C out/gpu/peers checkout --quiet $(FBI_LA_COMMIT)
	$(BIN)/python -m linzoo_recipes.mini fetch --out out/gpu

lock: $(READY) ## Write requirements.lock from the environment.
	{ head -n 1 requirements.lock; \
	  $(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//; s/^(triton==.*)$$/\1; sys_platform == "linux"/' | LC_ALL=C sort -f; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## Remove the environment and everything that was built.
	rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "linzoo's pinned environment needs Python 3.11 or later, and $(PYTHON) is not; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV): $$(grep -c == requirements.lock) packages, torch among them; this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)
