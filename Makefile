# Every target works in a fresh clone: it makes .venv and installs the tested versions first. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

DATA := tests/data/flowers
MINUTES := 10

.PHONY: help flowers train-demo check-data evaluate gallery test test-all test-browser notebook docs lint lint-check bench clean

help:            ## list the targets
	@grep -E '^[a-z-]+: ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

flowers: $(VENV)/.installed            ## generate 16 flowers with the default model: flowers.png
	$(RUN) scripts/generate.py --num_images 16 --num_inference_steps 20 --seed 0 --output flowers.png

train-demo: $(VENV)/.installed            ## train for ten minutes on two CPU cores: demo/samples.png (DATA=folder for your pictures)
	@echo "recipes/cpu.yaml, shortened to ten minutes on two fast cores. Given thousands of pictures of flowers (DATA=folder) that is enough for"
	@echo "blurred flowers on a background, and no more. The 128 pictures that come with this repository are so few that the network begins to"
	@echo "learn them by heart: its samples then look like them. On a slower machine run it again: it goes on where it was. There are no samples"
	@echo "until the network has grown. Remove the folder demo before you take other pictures."
	$(RUN) scripts/train.py recipes/cpu.yaml --train_data_dir $(DATA) --output_dir demo --resume_from_checkpoint latest \
		--growth_steps 650 450 --max_train_steps 2000 --max_train_minutes $(MINUTES) --dataset_repeats 256

# What is measured and drawn needs more flowers than those of the tests, which the model may have seen.
check-data:
	@test "$(DATA)" != tests/data/flowers || { echo "Name a folder of flowers with train and validation splits: make $(MAKECMDGOALS) DATA=FOLDER"; exit 2; }

evaluate: check-data $(VENV)/.installed-test            ## measure the default model against DATA, a folder of flowers: docs/evaluate.md
	$(RUN) scripts/evaluate.py reference --data $(DATA) --output reference.safetensors
	$(RUN) scripts/evaluate.py score --reference reference.safetensors --document docs/evaluate.md \
		--output src/flower_ddim/pretrained/flower-ddim-64/metrics.json --num_images 500 --batch_size 50 --compile
	$(RUN) scripts/evaluate.py overfitting --data $(DATA) --num_images 200 --num_pictures 200 --document docs/evaluate.md \
		--output_dir docs/evaluation --format webp
	$(RUN) scripts/evaluate.py scores --files src/flower_ddim/pretrained/*/metrics.json --document docs/evaluate.md
	$(RUN) scripts/evaluate.py steps --reference reference.safetensors --num_images 64 --kid_subset_size 64 \
		--compile --dtype bfloat16 --document docs/evaluate.md --output docs/evaluation/steps.json --format webp

gallery: check-data $(VENV)/.installed-test            ## draw the pictures in docs/ with the default model and DATA, and render its card: model_card.md
	$(RUN) scripts/generate.py --output docs/flowers.webp
	$(RUN) scripts/figures.py --data $(DATA) --split validation --metrics src/flower_ddim/pretrained/flower-ddim-64/metrics.jsonl \
		--format webp --output_dir docs/figures
	$(RUN) scripts/figures.py --model flower-ddim-64-names --only classes every_class class_interpolation \
		--format webp --output_dir docs/figures/names
	$(RUN) scripts/figures.py --model flower-ddim-64-names-4 --only classes --format webp --output_dir docs/figures/names-4
	$(RUN) scripts/interpolate.py --num_anchors 5 --size 128 --output docs/figures/loop.webp
	$(RUN) scripts/model_card.py

# Every test computes in one thread. Those of a file share fixtures, so they stay together.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
test: $(VENV)/.installed-test            ## run the quick tests
	$(RUN) -m pytest $(PARALLEL) -m "not slow and not browser"

test-all: $(VENV)/.installed-test            ## run all tests but those in a browser
	$(RUN) -m pytest $(PARALLEL) -m "not slow and not browser"
	$(RUN) -m pytest -m "slow and not browser"

notebook: $(VENV)/.installed-test            ## execute the notebook and store its outputs in it
	$(RUN) tests/notebook_file.py

test-browser: $(VENV)/.installed-browser            ## run the tests of the pages in Debian's Chromium, installing it and node where they are missing
	missing="$$(command -v chromium > /dev/null || echo chromium) $$(command -v npm > /dev/null || echo nodejs npm)"; \
		test "$$missing" = " " || { $(SUDO) apt-get update && $(SUDO) apt-get install --yes $$missing; }
	npm ci --prefix tests/web --ignore-scripts --no-audit --no-fund
	$(RUN) -m pytest -m browser

docs: $(VENV)/.installed-docs            ## build the documents as a site, build/site, and fail at a broken link
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

lint: $(VENV)/.installed-dev            ## check and format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lint-check: $(VENV)/.installed-dev            ## check the code, its format and who imports whom, changing nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

BENCH := $(RUN) scripts/benchmark.py
bench: $(VENV)/.installed $(VENV)-bench/.installed            ## measure speed and memory beside Keras and diffusers: docs/performance.md
	$(BENCH) compare --document docs/performance.md --output docs/performance/compare.json
	$(BENCH) sizes --document docs/performance.md --output docs/performance/sizes.json

clean:            ## remove what the other targets made
	rm -rf $(VENV) $(VENV)-bench build flower.png flowers.png demo reference.safetensors

# A stamp, since python itself is there even where making the environment has failed half-way.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

# On Linux PyPI's PyTorch brings gigabytes of CUDA. Where there is no NVIDIA GPU, and pip has no index of the user's own, PyTorch alone
# comes from its index of builds for CPUs.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
$(VENV)/.torch: $(VENV)/.created constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi > /dev/null 2>&1 && ! $(RUN) -m pip config list | grep -qE 'index-url|find-links'; then \
		$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --timeout 10 --retries 1 \
			--index-url $(TORCH_INDEX) --constraint constraints.txt torch 2> /dev/null || \
		echo "$(TORCH_INDEX) cannot be reached: pip takes PyTorch from its usual index, which may be gigabytes."; \
	fi
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

$(VENV)/.installed-test: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-browser: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) '.[browser]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) '.[docs]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

# TensorFlow goes its own way: other versions of what we need too, and no PyTorch. Our package itself needs nothing to be imported.
$(VENV)-bench/.installed: constraints-bench.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check --constraint constraints-bench.txt tensorflow-cpu keras
	$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
