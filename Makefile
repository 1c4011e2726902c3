# What a person types. Every target is safe to repeat; what is done already takes no time.
#
#   make demo        set up, make a bundle, run it, compare (COMPARE=no: without that, and what it installs)
#   make test        set up, then all tests and linters (DAEMONS=no: without docker, podman and containerd)
#   make setup       .venv/bin/pysandbox, its cold script and the executor, nothing else
#   make lint        only the linters                 make bench   against runc and crun
#   make soak        the long tests                   make image   the guest image of --backend microvm
#   make install     /usr/local/bin/pysandbox         make uninstall
#   make clean       remove what was built here

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SUFFIXES:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PREFIX  ?= /usr/local
DESTDIR ?=
DAEMONS ?= yes

STAMPS   := .stamps
VENV     := .venv
EXECUTOR := guest_agent/target/release/pysandbox-executor
LAUNCHER := guest_agent/target/release/pysandbox-launcher
PROGRAMS := $(EXECUTOR) $(LAUNCHER) $(addprefix guest_agent/target/release/pysandbox-,agent proxy gauge probe)
# The guest image of the tests: what does not change is built once for all checkouts.
CACHE    := $(HOME)/.cache/pysandbox/microvm
RUNSC    := $(HOME)/.cache/pysandbox/gvisor
# containerd finds them by runtime type: io.containerd.pysandbox.v2, io.containerd.pysandbox-microvm.v2.
SHIMS    := containerd-shim-pysandbox-v2 containerd-shim-pysandbox-microvm-v2
# The launcher's other names. The last one stands for a machine on the host (docs/architecture.md); nobody types it.
NAMES    := $(SHIMS) pysandbox-sandbox
MSRV     := $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' guest_agent/Cargo.toml 2>/dev/null)
# /usr/bin first: a `python3` found earlier on PATH is often a slow wrapper around the real one.
PYTHON   ?= $(shell for p in /usr/bin/python3 /usr/bin/python3.1[1-9] $$(command -v python3 || true); do \
              "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
RUST_SOURCES := $(shell find guest_agent -path guest_agent/target -prune -o -type f -print 2>/dev/null)

say = @printf '[%s] %s\n' "$(1)" "$(2)"

.PHONY: help setup demo compared image test lint bench bench-shim bench-machine soak install uninstall clean
help:
	@sed -n '3,10s/^# \{0,1\}//p' Makefile

# -- setup -------------------------------------------------------------------------------------------------------------

setup: $(STAMPS)/packages $(STAMPS)/venv $(PROGRAMS) $(VENV)/bin/pysandbox $(NAMES:%=$(VENV)/bin/%)

$(STAMPS):
	@mkdir -p $(STAMPS)

$(STAMPS)/packages: Makefile setup/packages.sh | $(STAMPS)
	$(call say,1/4,system packages)
	@setup/packages.sh build "$(MSRV)"
	touch $@

$(STAMPS)/venv: pyproject.toml setup.py $(STAMPS)/packages
	$(call say,2/4,virtual environment $(VENV): $(PYTHON) with pluggy$(comma) jeepney$(comma) pyroute2$(comma) qemu.qmp$(comma) rich$(comma) plotly$(comma) jinja2)
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[microvm,compare]'
	touch $@

$(PROGRAMS) &: $(RUST_SOURCES) $(STAMPS)/packages
	$(call say,3/4,building executor$(comma) launcher and agent (Rust$(comma) release$(comma) static))
	@cd guest_agent
	$$(../setup/packages.sh cargo "$(MSRV)") build --release --locked
	cd ..
	setup/packages.sh static $(PROGRAMS)
	touch $(PROGRAMS)

# What `pysandbox` executes where no server serves it.
$(VENV)/bin/pysandbox-cold: runtime_api/launcher.in setup/launcher.sh $(STAMPS)/venv
	@purelib=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	setup/launcher.sh "$$($(VENV)/bin/python -c 'import os, sys; print(os.path.realpath(sys._base_executable))')" \
	    "$(CURDIR)/runtime_api" "$(CURDIR)/backends" "$$purelib" > $@.new
	chmod 755 $@.new
	mv $@.new $@
	$(VENV)/bin/python -m compileall -q runtime_api backends "$$purelib"

$(VENV)/bin/pysandbox: $(LAUNCHER) $(VENV)/bin/pysandbox-cold
	$(call say,4/4,$(VENV)/bin/pysandbox)
	@install -m 755 $(LAUNCHER) $@.new
	mv $@.new $@

# The same two programs under other names.
$(NAMES:%=$(VENV)/bin/%): $(VENV)/bin/pysandbox
	@ln -f $(VENV)/bin/pysandbox $@
	ln -sf pysandbox-cold $@-cold

comma := ,

# -- what one does with it ---------------------------------------------------------------------------------------------

demo: setup
	@setup/demo.sh $(VENV)/bin/pysandbox run
	$(if $(filter no,$(COMPARE)),exit 0)
	$(MAKE) compared || echo "      the comparison goes on without what could not be made: see above"
	setup/demo.sh $(VENV)/bin/pysandbox compare "$$(setup/runsc.sh "$(RUNSC)" 2>/dev/null || true)"

# Whom the demo compares: runc, machines, and gVisor's runsc.
compared: $(STAMPS)/microvm-packages
	@setup/packages.sh compared
	$(MAKE) image
	$(call say,+,gVisor)
	setup/runsc.sh "$(RUNSC)" >/dev/null || true

$(STAMPS)/microvm-packages: setup/packages.sh $(STAMPS)/packages
	$(call say,+,packages for microVMs and their kernel)
	@setup/packages.sh microvm
	touch $@

image: setup $(STAMPS)/microvm-packages
	$(call say,+,guest image)
	@$(VENV)/bin/pysandbox image build $(IMAGE)

$(STAMPS)/test: pyproject.toml $(STAMPS)/venv
	$(call say,+,linters and test tools)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[microvm,compare,test,lint]'
	rm -f $(VENV)/bin/pysandbox # pip's own launcher: it isolates nothing, and starts no server
	$(MAKE) $(VENV)/bin/pysandbox
	touch $@

$(STAMPS)/test-packages-$(DAEMONS): setup/packages.sh $(STAMPS)/packages
	$(call say,+,packages for the tests (daemons: $(DAEMONS)))
	@setup/packages.sh test $(DAEMONS)
	touch $@

test: setup $(STAMPS)/test $(STAMPS)/test-packages-$(DAEMONS) $(STAMPS)/microvm-packages
	$(call say,+,guest image of the tests)
	@status=0
	$(VENV)/bin/pysandbox image build --directory "$(CACHE)" || status=1
	echo '[1/2] cargo test'
	(cd guest_agent && $$(../setup/packages.sh cargo "$(MSRV)") test --release --locked) || status=1
	echo '[2/2] pytest'
	$(VENV)/bin/python -m pytest $(TESTS) || status=1
	exit $$status

lint: setup $(STAMPS)/test
	@$(VENV)/bin/python -m pytest tests/style

bench: setup
	@$(VENV)/bin/python -P -m pysandbox.compare.bench $(BENCH)

bench-shim: setup
	@$(VENV)/bin/python -m pip install --quiet 'grpcio>=1.51'
	$(VENV)/bin/python -P -m pysandbox.compare.shimbench $(BENCH)

bench-machine: image
	$(VENV)/bin/python -P -m pysandbox.compare.machinebench $(BENCH)

soak: setup $(STAMPS)/test $(STAMPS)/test-packages-$(DAEMONS)
	@setup/packages.sh soak
	status=0
	$(VENV)/bin/python -m pytest tests/soak --timeout=0 $(SOAK) || status=1
	PYSANDBOX_SOAK_MACHINES=100 $(VENV)/bin/python -m pytest --timeout=0 --all tests/integration/engines tests/integration/microvm || status=1
	exit $$status

# -- install -----------------------------------------------------------------------------------------------------------

LIBRARY := $(DESTDIR)$(PREFIX)/lib/pysandbox
PROGRAM := $(DESTDIR)$(PREFIX)/bin/pysandbox

install: setup
	$(call say,1/2,$(LIBRARY))
	@umask 022
	interpreter=$$($(VENV)/bin/python -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
	rm -rf "$(LIBRARY).new"
	# setuptools would copy modules that are gone from the sources out of an old build directory.
	rm -rf build
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --target "$(LIBRARY).new" '.[microvm,compare]'
	rm -rf build "$(LIBRARY).new/bin"
	chmod -R go-w "$(LIBRARY).new"
	test "$$(id -u)" != 0 || chown -R 0:0 "$(LIBRARY).new"
	"$$interpreter" -IS -m compileall -q -s "$(LIBRARY).new" -p "$(PREFIX)/lib/pysandbox" "$(LIBRARY).new"
	rm -rf "$(LIBRARY)"
	mv "$(LIBRARY).new" "$(LIBRARY)"
	echo '[2/2] $(PROGRAM), $(PROGRAM)-cold'
	mkdir -p "$(DESTDIR)$(PREFIX)/bin"
	setup/launcher.sh "$$interpreter" "$(PREFIX)/lib/pysandbox" > "$(PROGRAM)-cold.new"
	chmod 755 "$(PROGRAM)-cold.new"
	install -m 755 $(LAUNCHER) "$(PROGRAM).new"
	mv "$(PROGRAM)-cold.new" "$(PROGRAM)-cold"
	mv "$(PROGRAM).new" "$(PROGRAM)"
	for name in $(NAMES); do
	    ln -f "$(PROGRAM)" "$(dir $(PROGRAM))$$name"
	    ln -sf pysandbox-cold "$(dir $(PROGRAM))$$name-cold"
	done

uninstall:
	@rm -rf "$(LIBRARY)" "$(LIBRARY).new" "$(PROGRAM)" "$(PROGRAM)-cold" \
	    $(foreach name,$(NAMES),"$(dir $(PROGRAM))$(name)" "$(dir $(PROGRAM))$(name)-cold")
	echo "removed $(LIBRARY), $(PROGRAM) and $(PROGRAM)-cold"

clean:
	@rm -rf $(STAMPS) $(VENV) guest_agent/target build dist runtime_api/*.egg-info runtime_api/pysandbox/libexec
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
