# Everything a newcomer needs: `make demo`, `make test`. Python 3.11 to 3.13 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SECONDS := 600
TRIALS := 10
TIMES := 10
SPIN := 8
CONTAINERS := all
KEEP :=
TARGETS := jsonl csv parquet prompts keys source mask pictures placing commands events claim plan record progress notes timings

.PHONY: help demo up test check shake lint audit sbom faults containers fuzz dry-card bench stores demo-model lock clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# Everything but torch by its hash, and nothing that would have to be built; then torch, with what it alone brings.
VERIFIED := $(BIN)/python -m pip install -q --require-hashes --no-deps --only-binary :all:

$(STAMP): requirements.txt requirements-hashed.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VERIFIED) -r requirements-hashed.txt
	$(VERIFIED) -r requirements-dev.txt
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## the main job for real: storage, Airflow, ten rows, a report; leaves nothing running
	$(BIN)/python -m demo run

up: $(STAMP)  ## the same, left running with the UI for a person (PORT=8080)
	$(BIN)/python -m demo up

test: $(STAMP)  ## every test, in another order each time
	$(BIN)/python -m pytest

check: lint  ## lint, and the fast tests of what changed: for the inner loop
	$(BIN)/python -m tests.check

shake: $(STAMP)  ## all tests but the cluster's, TIMES=10 in random order, beside SPIN=8 processes that keep the machine busy, with late threads
	$(BIN)/python -m tests.shake --times $(TIMES) --spin $(SPIN)

lint: $(STAMP)  ## formatter, linter, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each of the three is asked, whatever the others say; it fails where one found something, or could not look.
audit: $(STAMP)  ## known advisories: the pins (PyPI's) and the images (trivy's or grype's, where one is installed)
	failed=0; \
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner off --no-deps -r requirements.txt || failed=1; \
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner off -r requirements-dev.txt || failed=1; \
	$(BIN)/python -m supply.images || failed=1; \
	exit $$failed

sbom: $(STAMP)  ## what is installed, as a CycloneDX SBOM: dist/bom.json; fails for a licence that is not accepted
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate -o dist/bom.json $(BIN)/python
	$(BIN)/python -m supply.licences dist/bom.json

faults: $(STAMP)  ## the fault matrix, TRIALS=10 of each, into docs/reliability.md: an hour on two cores
	$(BIN)/python -m tests.faults --trials $(TRIALS) --page docs/reliability.md

containers: $(STAMP)  ## the compose file under a real Docker engine, as root: 20 minutes; CONTAINERS=light, without the painter: 8
	CONTAINERS=$(CONTAINERS) KEEP=$(KEEP) $(BIN)/python -m pytest -n 0 -p no:randomly -vv -rs --durations=0 --timeout=3600 tests/containers

fuzz: $(STAMP)  ## foreign bytes at every reader, guided by coverage: SECONDS=600 for each target, or TARGETS="csv keys"
	for target in $(TARGETS); do \
		$(BIN)/python -W ignore -m tests.fuzz $$target --seconds $(SECONDS) --seed 0 --keep .fuzz/$$target --artifacts .fuzz || exit; \
	done

dry-card: $(STAMP)  ## the full-size model on a CUDA card that is not there: every preset, batch and offload, with peaks of memory
	$(BIN)/python -m tests.dry_card

bench: $(STAMP)  ## what this processor shows, as ratios of pairs with their spread: optimisations, starts, a row, other programs
	$(BIN)/python -m bench.cpu
	$(BIN)/python -m bench.start --rounds 7
	$(BIN)/python -m bench.row
	$(BIN)/python -m bench.pipeline --batch 8 --megapixels 0.2,12 --padded no --rows 96 --seconds 0.5
	$(BIN)/python -m bench.million --rows 10000
	$(BIN)/python -m bench.peers --rows 20 --broken 5 --rounds 5 --threads 1

demo-model: $(STAMP)  ## train the demo's model from nothing into the package: two hours of two cores, less on a card; goes on where it was stopped
	$(BIN)/python -m demo.model.train .demo-model
	$(BIN)/python -m demo.model.judge inpaint_ops/model/demo --card --sheet docs/images/demo-model.jpg

stores: $(STAMP)  ## what S3 servers of several makers honour, as a table; installs three of them into .stores
	$(PYTHON) -m venv .stores
	$(subst $(BIN),.stores/bin,$(VERIFIED)) -r bench/stores/requirements.txt
	$(BIN)/python -m bench.stores --servers .stores/bin

# torch's pin brings its own pins of CUDA and Triton where its build needs them, so they are left out here: the same
# files install the CPU build where that is what is offered. Its build decides its hash too, so requirements.txt is
# pins alone, and requirements-hashed.txt is the same less torch, with hashes: docs/security.md says what that leaves.
CUDA := triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime \
	cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
COMPILE := $(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 --no-header --no-annotate \
	$(addprefix --no-emit-package ,$(CUDA))
HASHED := $(COMPILE) --generate-hashes --no-emit-package torch -c requirements.txt

# A venv has its pip. scikit-image asks for scipy, and only its photos are used: where scipy is installed, diffusers and
# transformers import it, which takes each worker of a test a second that no user's worker takes.
lock:  ## resolve requirements*.txt from pyproject.toml anew (add UPGRADE=--upgrade for newer versions)
	$(COMPILE) $(UPGRADE) --extra model --extra airflow -o requirements.txt
	$(HASHED) --extra model --extra airflow -o requirements-hashed.txt
	$(HASHED) --extra airflow -o requirements-airflow.txt  # the light image: no torch
	$(HASHED) $(UPGRADE) --extra dev --no-emit-package pip --no-emit-package scipy -o requirements-dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate --generate-hashes $(UPGRADE) \
		bench/stores/requirements.in -o bench/stores/requirements.txt

clean:  ## remove what the demo and the containers' tests made
	rm -rf .demo .containers
