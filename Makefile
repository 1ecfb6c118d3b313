# make run: everything installed, the page started. make test: the tests' packages too, and the quick tests run;
# make test-all: every test, those that take long too. Both run two files of tests at a time.
# make figures: after new weights and their evaluation. make measure: before a release, on a machine that does nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-all sam lint docs figures measure screenshots links gpu space-check container-check lock audit sbom \
	fuzz load clean

run: $(VENV)/.product
	$(BIN)/python app.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# SAM's packages, without which its tests are skipped; CONTRIBUTING.md says how PyTorch comes small.
sam: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[sam]'

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy

$(VENV)/.product: requirements.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dicom]'
	touch $@

$(VENV)/.dev: $(VENV)/.product
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The README's pictures, of the page as it is; needs a chromium.
screenshots: $(VENV)/.dev
	$(BIN)/python -m docs.screenshots

# What is generated in README.md and docs/, of the shipped weights' manifest and docs/evaluation/evaluation.json.
docs: $(VENV)/.dev
	$(BIN)/python docs/readme.py
	$(BIN)/python docs/cli.py
	$(BIN)/python -m neurovision reproduce

# The same, and what the tests hold the new weights to. NEUROVISION_DATA names the prepared scans, for the counts that
# monitoring compares with.
figures: docs
	$(BIN)/python -m tests.stored_output
	$(BIN)/python -m neurovision.evaluation.drift "$${NEUROVISION_DATA:?name the prepared scans}"

# Every speed, size and rate in docs/, measured anew: hours, on a machine that does nothing else, with a chromium.
measure: $(VENV)/.dev fuzz load screenshots space-check container-check
	rm -rf build/batch && mkdir -p build
	$(BIN)/python -m neurovision bench --out build/bench.json --write docs/performance.md
	$(BIN)/python -m neurovision batch "$${NEUROVISION_DATA:?name the prepared scans}/figshare/images" --out build/batch --workers 1
	$(BIN)/python docs/scale.py build/batch

# Links to other sites, asked one by one; those within the documents are followed by tests/test_docs.py.
links: $(VENV)/.dev
	$(BIN)/python -m docs.links

# The packages with CUDA bear other names than those that they replace, and write the same files.
gpu: $(VENV)/.product
	$(BIN)/python -m pip install --quiet --editable '.[gpu]'
	$(BIN)/python -m pip uninstall --quiet --yes tensorflow-cpu xgboost-cpu
	sed -n 's/^\(tensorflow\|xgboost\)-cpu==/\1==/p' requirements.txt \
		| $(BIN)/python -m pip install --quiet --force-reinstall --no-deps --requirement /dev/stdin

# The very file set of a Space in an environment of its own, started as a Space is.
space-check:
	$(PYTHON) deploy/space.py

# The lines of the Dockerfile, executed in a fresh root where there is no container engine.
container-check:
	$(PYTHON) -m tests.run_lines Dockerfile

# Every package that requirements.txt leads to, by version and hash, as the container installs it.
lock: $(VENV)/.dev
	$(BIN)/python -m tests.audit --lock

# Known vulnerabilities of what is locked; a machine that cannot ask says so and passes.
audit: $(VENV)/.dev
	$(BIN)/python -m tests.audit

sbom: $(VENV)/.dev
	$(BIN)/python -m tests.audit --sbom build/sbom.cdx.json

# The long measurements of docs/reliability.md: about 55 minutes on a quiet machine.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.hostile
	$(BIN)/python -m tests.fuzz images dicom nifti masks --seconds 600

load: $(VENV)/.dev
	$(BIN)/python -m tests.load --clients 32 --seconds 300

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
