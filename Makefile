# Everything a developer and a packager needs: `make help` lists it.
#
# Variables: PREFIX and DESTDIR for `install`; BINARY to install another binary than the release build;
# CORACLE_CACHE for where the test trees are kept (default /var/cache/coracle-test).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:

# rustup's own installation is not on root's path in every shell
export PATH := $(PATH):$(HOME)/.cargo/bin

PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
# Static, with musl where Rust's library for it is installed: glibc asks the processor what it is at each start, and
# in a virtual machine each of these questions is a trip to its host. Looked up when used: `deps` installs it.
SYSROOT = $(shell PATH="$(PATH)" rustc --print sysroot)
LIBC = $(shell if [ -d "$(SYSROOT)/lib/rustlib/x86_64-unknown-linux-musl" ]; then echo musl; else echo gnu; fi)
TARGET = x86_64-unknown-linux-$(LIBC)
RELEASE = $(CURDIR)/target/$(TARGET)/release/coracle
SCRIPTS := $(sort $(wildcard tests/*.sh tests/*/*.sh tests/*/*/*.sh)) .ci/run

TOKIO_BANNED := full|rt-multi-thread|process|fs|signal

# the whole test run, and each of its long parts, ends by itself
TREES_BOUND := 20m
TEST_BOUND := 50m
BENCH_BOUND := 60m
VM_BOUND := 40m

ifeq ($(origin BINARY),undefined)
BINARY = $(RELEASE)
INSTALL_NEEDS := binary
endif

bindir := $(DESTDIR)$(PREFIX)/bin
libdir := $(DESTDIR)$(PREFIX)/lib/systemd
# units that make the host's firewall anew
NEIGHBOURS := firewalld ufw docker nftables
sharedir := $(DESTDIR)$(PREFIX)/share

.PHONY: help build-and-lint deps deps-vm binary install lint trees test test-all test-vm demo bench probe faults storm clean

help:
	@echo "make demo      boot a Debian machine and show it (as root)"
	@echo "make test      lints, unit tests and the host suite (as root)"
	@echo "make test-all  the host suite on Debian 12, 13, unstable, and in coracle itself (as root)"
	@echo "make test-vm   limits, AppArmor, reboots of the host: in a virtual machine (as root)"
	@echo "make binary    the release binary; its path is the last line"
	@echo "make install   DESTDIR= PREFIX=/usr"
	@echo "make bench     compare with others, as root; PARTS=\"start boot rest enter life network scale\""
	@echo "make probe     what root inside can do, point by point, here and with others, as root"
	@echo "make faults    a start with every single call failing, and killed at every one (as root)"
	@echo "make storm     machines started and killed at random, and trees that change meanwhile (as root)"
	@echo "make lint      formatting, clippy, documentation, shell scripts"
	@echo "make trees     the root trees of the host suite, cached"
	@echo "make deps      what all of this needs on a Debian machine"
	@echo "make clean     the build's output (not the cached trees)"

deps:
	@tests/deps.sh

deps-vm:
	@tests/deps.sh vm

# At a fixed address: an idle machine's process then has few pages of its own.
binary:
	@RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
		$(CARGO) build --release --locked --target $(TARGET)
	@echo "$(RELEASE)"

# The units name the binary below /usr; another prefix changes that. What does not exist yet is passed over.
install: $(INSTALL_NEEDS)
	@install -Dm755 "$(BINARY)" "$(bindir)/coracle"
	shopt -s nullglob
	for unit in units/*.service units/*.target units/*.path; do
		install -Dm644 "$$unit" "$(libdir)/system/$${unit##*/}"
		sed -i 's|/usr/bin/coracle|$(PREFIX)/bin/coracle|g' "$(libdir)/system/$${unit##*/}"
	done
	for other in $(NEIGHBOURS); do
		install -d "$(libdir)/system/$$other.service.wants"
		ln -sfn "../coracle-refit@.service" "$(libdir)/system/$$other.service.wants/coracle-refit@$$other.service"
	done
	# systemd's units of AppArmor load it at the next boot; a host that confines now loads it now
	for file in abstractions/coracle-machine coracle-machine coracle-machine-nesting; do
		install -Dm644 "apparmor/$$file" "$(DESTDIR)/etc/apparmor.d/$$file"
	done
	if [ -z "$(DESTDIR)" ] && [ "$$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] &&
		command -v apparmor_parser >/dev/null; then
		apparmor_parser --replace /etc/apparmor.d/coracle-machine{,-nesting}
	fi
	# Root of a machine leaves setuid programs in its tree: no user of the host may get there.
	install -Dm644 tmpfiles.d/coracle.conf "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/coracle.conf"
	install -d "$(DESTDIR)/var/lib/machines"
	chmod 0700 "$(DESTDIR)/var/lib/machines"
	install -Dm644 firewalld/coracle.xml "$(DESTDIR)$(PREFIX)/lib/firewalld/zones/coracle.xml"
	install -d "$(libdir)/system-generators"
	ln -sfn ../../../bin/coracle "$(libdir)/system-generators/coracle-generator"
	for file in dbus/*.conf; do install -Dm644 "$$file" "$(sharedir)/dbus-1/system.d/$${file##*/}"; done
	for file in dbus/*.service; do install -Dm644 "$$file" "$(sharedir)/dbus-1/system-services/$${file##*/}"; done
	for file in dbus/*.xml; do install -Dm644 "$$file" "$(sharedir)/dbus-1/interfaces/$${file##*/}"; done
	for page in man/*.[158]; do
		install -Dm644 "$$page" "$(sharedir)/man/man$${page##*.}/$${page##*/}"
	done
	for file in machines.d/*.toml; do
		install -Dm644 "$$file" "$(sharedir)/doc/coracle/machines.d/$${file##*/}"
	done
	install -Dm644 LICENSE "$(sharedir)/doc/coracle/LICENSE"
	completion() {
		local text
		text=$$(timeout 10 "$(BINARY)" completions "$$1" 2>/dev/null </dev/null) && [ -n "$$text" ] || return 0
		install -d "$$(dirname "$$2")"
		printf '%s\n' "$$text" >"$$2"
	}
	completion bash "$(sharedir)/bash-completion/completions/coracle"
	completion zsh "$(sharedir)/zsh/site-functions/_coracle"
	completion fish "$(sharedir)/fish/vendor_completions.d/coracle.fish"

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	$(CARGO) clippy --locked --test vm --quiet -- -D warnings
	$(CARGO) clippy --locked --target $(TARGET) --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	shellcheck --external-sources $(SCRIPTS)
	# What deny.toml forbids of tokio, in what is really built here: it would start threads or catch signals.
	features=$$($(CARGO) tree --locked --target $(TARGET) --edges normal,features --invert tokio)
	if grep -E 'tokio feature "($(TOKIO_BANNED))"' <<<"$$features"; then exit 1; fi

trees:
	tests/trees/build.sh --list | timeout --kill-after=30 $(TREES_BOUND) xargs -n1 -P2 tests/trees/build.sh

# Linking the release binary is minutes of one processor: the lints have the other meanwhile.
build-and-lint: deps
	$(MAKE) --no-print-directory binary & build=$$!
	failed=0
	$(MAKE) --no-print-directory lint || failed=1
	wait "$$build" || failed=1
	exit "$$failed"

# Two hosts per processor: half of a test is waiting.
test: deps trees build-and-lint
	CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=$$((2 * $$(nproc))) \
		timeout --kill-after=30 $(TEST_BOUND) $(CARGO) test --locked --no-fail-fast

# The suite's own names of the trees; `make test` has run it on Debian 13. Last, on hosts that coracle boots.
test-all: test
	for lane in SUITE=bookworm SUITE=sid BY=coracle; do
		echo "== hosts of $$lane"
		env "CORACLE_HOST_$$lane" CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=2 \
			timeout --kill-after=30 $(TEST_BOUND) $(CARGO) test --locked --no-fail-fast --tests
	done

# One at a time: an emulator keeps both processors of a small machine busy.
test-vm: deps-vm binary
	tests/vm/build.sh
	CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=1 \
		timeout --kill-after=30 $(VM_BOUND) $(CARGO) test --locked --test vm

# Every call of a start fails and every process is killed at every call: an hour.
faults: deps binary
	CORACLE_FAULTS=all CORACLE_BINARY="$(RELEASE)" $(CARGO) test --locked --test hosts -- --nocapture matrix::

# Ten minutes of machines that start and end at random, then roots built of trees that change: half an hour.
storm: deps binary
	CORACLE_STORM=600 CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(TEST_BOUND) \
		$(CARGO) test --locked --test hosts -- --nocapture a_storm_loses
	CORACLE_RACES=100000 timeout --kill-after=30 $(BENCH_BOUND) $(CARGO) test --locked --test races

demo: deps binary
	@tests/demo.sh "$(RELEASE)"

probe: deps binary
	CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(BENCH_BOUND) \
		$(CARGO) bench --locked --profile dev --bench bench -- walls

# The program that measures needs no speed of its own; what is measured is the release binary.
bench: deps binary
	CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(BENCH_BOUND) \
		$(CARGO) bench --locked --profile dev --bench bench -- $(PARTS)

clean:
	$(CARGO) clean
