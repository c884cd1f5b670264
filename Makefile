# Every target sets up its virtual environment by itself; PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV ?= .venv
# What is installed into it: this folder, editable, or a built wheel.
PACKAGE ?= -e .
PORT ?= 5000
# More than there are cores: much of the suite waits, for processes and for clocks.
PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) '*' 3 / 2)
# The tests of the engines wait for kills, brokers and leases most of the time.
ENGINE_PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) '*' 5 / 2)
# Where `make test-databases` runs what has a database.
DATABASES ?= sqlite sqlite-memory postgresql mariadb
MARKED ?= on_database
# What `make bench` runs, and how often.
BENCHMARKS ?= api scale claim delivery latency publish fair portal
ROUNDS ?= 7
# Where `make bench-queue` finds the servers.
POSTGRESQL ?= postgresql+psycopg://postgres@127.0.0.1:5432/postgres
MARIADB ?= mysql+pymysql://root@127.0.0.1:3306/mysql

# Dozens of processes import the same modules: let the first one keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

BIN = $(VENV)/bin
LOWEST = $(VENV)-lowest
CLIENTS = $(VENV)-clients
# The extras that hosts install.
LIBRARIES = worker celery migrations otel events
PORTAL = flask_webhook_endpoints/portal
LANGUAGES = de fr es
READY = $(VENV)/.ready
DEMO_READY = $(VENV)/.demo-ready
BENCH_READY = $(VENV)/.bench-ready
LOWEST_READY = $(LOWEST)/.ready
CLIENTS_READY = $(CLIENTS)/.ready

.PHONY: help demo run test test-slow test-databases test-clients test-portal test-engines test-receivers test-lowest bench bench-queue lint screenshots translations clean

help:
	@echo "make demo            start the example app and its worker, manage endpoints and receive deliveries, stop"
	@echo "make test            the test suite on SQLite"
	@echo "make test-slow       the tests that it leaves out: whole processes, limits of memory and time"
	@echo "make run             serve the example app on PORT (5000), and deliver its webhooks"
	@echo "make test-databases  the tests that have a database, on SQLite, PostgreSQL and MariaDB"
	@echo "make test-engines    worker and Celery on PostgreSQL, RabbitMQ and Redis, killed under load"
	@echo "make test-clients    clients made of the OpenAPI document by four generators; needs Go"
	@echo "make test-portal     the portal's pages in a browser; needs Debian's chromium-headless-shell"
	@echo "make test-receivers  the receivers of docs/receivers.md that need Go, PHP, Ruby and Java"
	@echo "make test-lowest     the test suite on the lowest versions of the dependencies that are allowed"
	@echo "make bench           what requests and deliveries cost, on SQLite or on DATABASE; BENCHMARKS, ROUNDS"
	@echo "make bench-queue     how claims, tenants and idle workers fare, on SQLite, POSTGRESQL and MARIADB; 20 minutes"
	@echo "make screenshots     the images of docs/portal.md; needs Debian's chromium-headless-shell"
	@echo "make translations    find new texts of the portal for its catalogues, and compile these"
	@echo "make lint            ruff, mypy --strict, pyright, import contracts"

define install
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@# setuptools warns of folders beside the sources, in an editable install, whatever they are.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PACKAGE)[$(1)]
endef

$(READY): pyproject.toml
	$(call install,dev)
	@touch $@ $(DEMO_READY)

# A quick look needs a fraction of it.
$(DEMO_READY): pyproject.toml
	$(call install,demo)
	@touch $@

$(BENCH_READY): pyproject.toml
	$(call install,bench)
	@touch $@ $(DEMO_READY)

demo: $(DEMO_READY)
	@$(BIN)/python -m example_app.demo

run: $(DEMO_READY)
	@$(BIN)/python -m example_app --port $(PORT)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal -m "not slow and not other_languages and not clients and not browser"

test-slow: $(READY)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal -m "slow and not full_size"

test-databases: $(READY)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal -m "$(MARKED)" $(DATABASES:%=--database %)

test-engines: $(READY)
	$(BIN)/python -m pytest --numprocesses $(ENGINE_PROCESSES) --dist worksteal --database postgresql \
		--broker rabbitmq --broker redis tests/worker/test_engines.py

# The generators have an environment of their own, so that their versions and ours do not depend on each other.
$(CLIENTS_READY): tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-clients: $(READY) $(CLIENTS_READY)
	CLIENTS_VENV=$(CLIENTS) $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m clients

test-portal: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m browser

screenshots: $(READY)
	WEBHOOK_TESTS_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/portal/test_screenshots.py

test-receivers: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m other_languages

# What the lowest versions are, pyproject.toml says: of the direct dependencies, not of the tools, nor of what these need.
$(LOWEST_READY): pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --no-deps --python $(LOWEST)/bin/python \
		$(LIBRARIES:%=--extra %) --output-file $(LOWEST)/constraints.txt pyproject.toml >/dev/null
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --constraint $(LOWEST)/constraints.txt \
		"$(PACKAGE)[dev]"
	@touch $@

test-lowest: $(LOWEST_READY)
	$(LOWEST)/bin/python -m pytest --numprocesses $(PROCESSES) --dist worksteal -m "not slow and not other_languages and not clients and not browser" $(DATABASE:%=--database %)

# What the texts are, the sources say; what they mean in other languages, people write into the .po files.
translations: $(READY)
	cd $(PORTAL) && $(abspath $(BIN))/pybabel -q extract -F ../../pyproject.toml --no-location --sort-output \
		-k whe_text -k whe_plural:1,2 -k gettext -k ngettext:1,2 -k noted --project flask-webhook-endpoints -o messages.pot .
	for language in $(LANGUAGES); do \
		$(BIN)/pybabel -q update --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --init-missing \
			-D webhook_endpoints -i $(PORTAL)/messages.pot -d $(PORTAL)/translations -l $$language; \
	done
	rm $(PORTAL)/messages.pot
	$(BIN)/pybabel -q compile -D webhook_endpoints -d $(PORTAL)/translations

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# Each takes one core.
	$(BIN)/mypy & $(BIN)/pyright --pythonpath $(BIN)/python; pyright=$$?; wait $$! && exit $$pyright

bench: $(BENCH_READY)
	@# flask-smorest warns of its own names for our schemas.
	set -e; for program in $(BENCHMARKS); do \
		$(BIN)/python -W ignore -m benchmarks.bench_$$program --rounds $(ROUNDS) $(DATABASE); \
	done

bench-queue: BENCH = $(BIN)/python -W ignore -m benchmarks.bench_
bench-queue: $(BENCH_READY)
	set -e; for database in "" '$(POSTGRESQL)' '$(MARIADB)'; do \
		$(BENCH)claim --rounds 3 --only put-off --only held $$database; \
		$(BENCH)latency --only idle $$database; \
	done
	$(BENCH)claim --rounds 3 --only latency --only wide --only snapshot '$(POSTGRESQL)'
	$(BENCH)fair --only tenants --only staggered --only backlog --only backlogs '$(POSTGRESQL)'
	$(BENCH)delivery --rounds 3 --only speed '$(POSTGRESQL)'
	$(BENCH)delivery --rounds 1 --only cost '$(POSTGRESQL)'

clean:
	rm -rf $(VENV) $(LOWEST) $(CLIENTS) build dist *.egg-info
