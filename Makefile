# Every target works in a fresh clone: it makes .venv and installs the tested versions first. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help flowers test test-all test-browser lint lint-check clean

help:            ## list the targets
	@grep -E '^[a-z-]+: ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

flowers: $(VENV)/.installed            ## generate 16 flowers with the shipped model: flowers.png
	$(RUN) scripts/generate.py --num_images 16 --num_inference_steps 20 --seed 0 --output flowers.png

test: $(VENV)/.installed-test            ## run the quick tests
	$(RUN) -m pytest -m "not slow and not browser"

test-all: $(VENV)/.installed-test            ## run all tests but those in a browser
	$(RUN) -m pytest -m "not browser"

test-browser: $(VENV)/.installed-browser            ## run the tests of the page in Debian's Chromium, installing it where it is missing
	command -v chromium > /dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install --yes chromium; }
	$(RUN) -m pytest -m browser

lint: $(VENV)/.installed-dev            ## check and format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lint-check: $(VENV)/.installed-dev            ## check the code and its format, changing nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:            ## remove what the other targets made
	rm -rf $(VENV) flowers.png

# A stamp, since python itself is there even where making the environment has failed half-way.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-browser: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[browser]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test
