# Everything a contributor types. `make` alone lists it. What a target needs is set up first (tests/setup_tools.py).

PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
# Most of the time a test waits for a server: two workers a processor. A few tests alone need none: they start at once.
WORKERS ?= $(if $(PYTEST_ARGS),0,$(shell expr 2 '*' $$(nproc)))
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo demo-stop test test-quick test-pitr test-places test-s3-lock test-resume test-fault test-web soak test-n8n test-dropbox test-system system-image check lint format types layers man bench deb tools demo-tools lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: demo-tools  ## a real backup, from saved settings to restored data; KEEP=1 leaves it running to play with
	@$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

demo-stop:  ## stop the demo that KEEP=1 left running, and delete its files
	@$(BIN)/python -m tests.demo --stop

test: tools  ## all tests, against real servers; PYTEST_ARGS="-k ftp" for some of them, WORKERS=4 side by side
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-quick: tools  ## only the tests without servers
	$(BIN)/python -m pytest tests/unit -m "not slow" $(PYTEST_ARGS)

test-pitr: tools  ## five minutes of random writes, sixty moments restored and compared; SECONDS=30 for less
	NANUMPAY_PITR_SECONDS=$(or $(SECONDS),300) NANUMPAY_PITR_SEED=$(or $(SEED),7) \
		$(BIN)/python -m pytest tests/integration/test_pitr.py -s -o timeout=7200 -o faulthandler_timeout=0 $(PYTEST_ARGS)

test-places: tools  ## every kind of destination: contract and faults, also at Swift and Ceph; PYTEST_ARGS="-k swift" for one
	@$(PYTHON) tests/setup_tools.py places
	NANUMPAY_TEST_ALL_PLACES=1 $(BIN)/python -m pytest tests/contract/test_stores.py tests/contract/test_faults.py $(PYTEST_ARGS)

test-s3-lock: tools  ## Object Lock and versions at a real server (Ceph, 64 Debian packages)
	@$(PYTHON) tests/setup_tools.py s3-lock
	NANUMPAY_TEST_S3_LOCK=1 $(BIN)/python -m pytest tests/integration/test_s3_lock.py $(PYTEST_ARGS)

test-resume: tools  ## an upload of SIZE=2GB under kills of daemon and server: S3 (Ceph), FTP, SFTP (minutes)
	@$(PYTHON) tests/setup_tools.py s3-lock
	NANUMPAY_TEST_RESUME_SIZE=$(or $(SIZE),2GB) $(BIN)/python -m pytest tests/fault/test_resume_large.py -s \
		-o timeout=3600 -o faulthandler_timeout=0 $(PYTEST_ARGS)

test-fault: tools  ## the fault suite: kills, full disks, tools that lie (15 minutes); PYTEST_ARGS="-k prune" for some
	$(BIN)/python -m tests.fault $(PYTEST_ARGS)

soak: tools  ## the daemon under load and faults for HOURS=2 (root), restores compared meanwhile; writes docs/soak.md
	$(BIN)/python -m tests.soak --hours $(or $(HOURS),2) $(if $(SEED),--seed $(SEED)) --page docs/soak.md $(SOAK_ARGS)

test-n8n: tools  ## n8n itself, installed into .tools/n8n (1.6 GB); RECORD=1 writes its recorded answers anew
	@$(PYTHON) tests/setup_tools.py n8n
	NANUMPAY_TEST_REAL_N8N=1 NANUMPAY_RECORD_N8N=$(RECORD) $(BIN)/python -m pytest -k n8n \
		tests/contract/test_sources.py tests/integration/test_n8n.py $(PYTEST_ARGS)

test-dropbox: tools  ## the stores' suite at Dropbox itself; takes an app folder (docs/destinations/dropbox.md)
	NANUMPAY_TEST_REAL_DROPBOX=1 $(BIN)/python -m pytest -k dropbox-real tests/contract/test_stores.py $(PYTEST_ARGS)

test-web: tools  ## the web page: every page in each language, size and theme (screenshots in build/web-pages)
	NANUMPAY_TEST_ALL_LOOKS=1 $(BIN)/python -m pytest tests/integration/test_web*.py $(PYTEST_ARGS)

test-system: tools  ## the package on a booted Debian 12 (root; five minutes): install, daily life, upgrade, purge
	@$(MAKE) --no-print-directory --jobs=2 deb system-image
	$(BIN)/python -m tests.system test $(PYTEST_ARGS)

system-image:
	@$(PYTHON) tests/setup_tools.py system
	@$(BIN)/python -m tests.system image

check: lint types layers test  ## what CI runs: lint, types, layers, tests

lint: tools  ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: tools  ## let ruff format and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

types: tools  ## mypy --strict
	$(BIN)/mypy

layers: tools  ## who may import whom
	$(BIN)/lint-imports --no-logo

man: tools  ## write completions, the keys in backupd.toml.5 and docs/guarantees.md anew (tests say when it is due)
	$(BIN)/python -m tests.pages
	$(BIN)/python -m tests.guarantees

bench: tools  ## speed and memory against other ways; writes docs/benchmarks.md (some minutes, 12 GB of disk)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

deb:  ## the Debian package, into dist/ (dpkg-buildpackage and lintian; nothing else of the project is needed)
	@$(PYTHON) tests/setup_tools.py deb
	MAKEFLAGS= debian/build

tools:  ## set up .venv, .tools and system packages, and nothing else
	@$(PYTHON) tests/setup_tools.py test

demo-tools:
	@$(PYTHON) tests/setup_tools.py demo

lock:  ## work out requirements.lock and tests/requirements.lock anew; UPGRADE=1 takes newer versions
	$(PYTHON) -m venv --clear .tools/lock
	.tools/lock/bin/pip install --quiet --disable-pip-version-check uv
	.tools/lock/bin/uv pip compile $(LOCK_OPTIONS) --extra all -o requirements.lock pyproject.toml
	.tools/lock/bin/uv pip compile $(LOCK_OPTIONS) --extra all --extra test -c requirements.lock -o tests/requirements.lock pyproject.toml
	! grep -nE '://|file:' requirements.lock tests/requirements.lock

LOCK_OPTIONS = --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

clean:  ## remove everything that was set up or built
	rm -rf .venv .tools .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
