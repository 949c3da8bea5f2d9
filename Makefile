# Every target makes its own environment: python3 >= 3.11 is all that has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSIDE := $(BIN)/python -m sandbox.privileges --
IMAGE ?= eip-reclaimer:0.1.0

.PHONY: demo test chaos soak recovery bench bench-check bench-audit screenshots reference image image-base image-test lint types format lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/run  ## the main job, played on this machine; ARGS=--json for scripts
	@$(BIN)/python -m cli demo $(ARGS)

test: $(VENV)/dev  ## all tests; namespaces are made as root or in a user namespace
	$(INSIDE) $(BIN)/python -m pytest $(TESTS)

chaos: $(VENV)/dev  ## the product under every fault we know: EIPS=10000 GATEWAYS=20 MINUTES=30 SEED=1
	$(INSIDE) $(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/dev  ## the product at a steady rate, and whether anything grows: MINUTES=30 RATE=2
	$(INSIDE) $(BIN)/python -m tests.soak $(ARGS)

recovery: $(VENV)/dev  ## how soon the work of killed workers goes on: KILLS=20
	$(INSIDE) $(BIN)/python -m tests.recovery $(ARGS)

screenshots: $(VENV)/dev  ## of the dashboard, anew; needs Chromium
	$(BIN)/python -m tests.dashboard.screenshots docs/screenshots

bench: $(VENV)/dev  ## how fast, beside peers, in a quarter of an hour: CASES="single job" ARGS=--quick
	$(INSIDE) $(BIN)/python -m benchmarks $(CASES) $(ARGS)

bench-check: $(VENV)/dev  ## before a release: whether anything became much slower
	$(INSIDE) $(BIN)/python -m benchmarks $(CASES) --check

reference: $(VENV)/dev  ## docs/configuration.md and the chart's table of values, anew from what they describe
	$(BIN)/python -m tests.documents.reference docs/configuration.md
	$(BIN)/python -m tests.helm.values_table

bench-audit: $(VENV)/dev  ## how long an audit takes, and what it asks: ARGS="--eips 10000 --gateways 100"
	$(INSIDE) $(BIN)/python -m benchmarks.audit $(ARGS)

image:  ## the container image; ARGS="--build-arg BASE=…" for another base
	docker build $(ARGS) --tag $(IMAGE) .

image-base: $(VENV)/run  ## the base of the image, and a Valkey server's, made here by debootstrap; as root
	tests/image/make-bases

image-test: $(VENV)/dev  ## the image and docker-compose.yml, tried; as root with an engine of its own where none runs
	tests/image/with-engine $(BIN)/python -m pytest tests/image $(TESTS)

lint: $(VENV)/dev  ## style, as CI checks it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write the lock files anew; needs uv
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev -o requirements-dev.lock
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header - -o requirements-build.lock

clean:
	rm -rf $(VENV)

$(VENV)/run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("python3 >= 3.11 is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "once: making the environment $(VENV), which fetches packages for a minute or two" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	@echo "once: fetching what the tests need" >&2
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
