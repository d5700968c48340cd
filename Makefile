# Commands for developers and packagers; `make help` lists them.
#
# Variables: PREFIX and DESTDIR for `install`; BINARY to install another binary than the release build;
# CORACLE_CACHE for the cache of test trees (default /var/cache/coracle-test).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:

# An installation by rustup is not in root's PATH in every shell.
export PATH := $(PATH):$(HOME)/.cargo/bin

PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
# Static, with musl if Rust's library for it is installed: glibc executes cpuid at each start, and in a virtual machine
# each cpuid exits to the hypervisor. The variable is expanded when used, because `deps` installs the library.
SYSROOT = $(shell PATH="$(PATH)" rustc --print sysroot)
LIBC = $(shell if [ -d "$(SYSROOT)/lib/rustlib/x86_64-unknown-linux-musl" ]; then echo musl; else echo gnu; fi)
TARGET = x86_64-unknown-linux-$(LIBC)
# With the linker that comes with Rust, the functions of a start lie side by side: it touches fewer pages. Functions of the
# list that the program does not have any more cost nothing; `make order` writes it anew.
LLD = $(SYSROOT)/lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld
ORDER := tests/order/symbols.txt
LINK = $(if $(wildcard $(LLD)),$(addprefix -C link-arg=,-fuse-ld=lld -B$(LLD) -Wl,--no-warn-symbol-ordering))
ORDERED = $(if $(LINK),-C linker=$(CURDIR)/tests/order/cc.sh)
RELEASE = $(CURDIR)/target/$(TARGET)/release/coracle
SCRIPTS := $(sort $(wildcard tests/*.sh tests/*/*.sh tests/*/*/*.sh docs/*.sh benches/*.sh)) .ci/run

TOKIO_BANNED := full|rt-multi-thread|process|fs|signal

# Time limits of the test run and of its long parts.
TREES_BOUND := 20m
TEST_BOUND := 50m
BENCH_BOUND := 60m
VM_BOUND := 40m

# The program of `coracle pull`: dynamic, for the host's name resolution.
PULL ?= $(CURDIR)/target/release/coracle-pull

ifeq ($(origin BINARY),undefined)
BINARY = $(RELEASE)
INSTALL_NEEDS := binary
endif

bindir := $(DESTDIR)$(PREFIX)/bin
libdir := $(DESTDIR)$(PREFIX)/lib/systemd
# Units that replace the host's firewall.
NEIGHBOURS := firewalld ufw docker nftables
sharedir := $(DESTDIR)$(PREFIX)/share

.PHONY: help build-and-lint deps deps-vm binary order install divert undivert lint trees picture test test-all test-images test-callers test-vm conformance demo bench probe faults storm clean

help:
	@echo "make demo      boot a Debian machine and show it, as root"
	@echo "make test      lints, unit tests and the host suite, as root"
	@echo "make test-all  the host suite on Debian 12, 13, unstable, and inside coracle, and images on XFS and Btrfs, as root"
	@echo "make test-images  the tests of images on XFS and Btrfs, as root"
	@echo "make test-callers  programs of Debian that call systemd-nspawn or schroot, Ansible, Prometheus and Graphviz, as root"
	@echo "make test-vm   limits, AppArmor and reboots of the host in a virtual machine, as root"
	@echo "make conformance  the table of systemd-nspawn's options on Debian 12, 13 and unstable, as root"
	@echo "make binary    the release binary; its path is the last line"
	@echo "make install   DESTDIR= PREFIX=/usr"
	@echo "make divert    run coracle as systemd-nspawn on this Debian, as root; 'make undivert' ends that"
	@echo "make bench     compare with other managers, as root; PARTS=\"start boot rest enter life network scale storage archives build packages service nspawn filter probe\""
	@echo "make probe     list the operations that root inside can do, also with other managers, as root"
	@echo "make faults    a start with every system call failing, and killed at every one, as root"
	@echo "make storm     random starts and kills, then trees that change during a start, as root"
	@echo "make lint      formatting, clippy, documentation, shell scripts"
	@echo "make trees     build the root trees of the host suite in the cache"
	@echo "make order     list the functions of a start for the linker, as root"
	@echo "make picture   render the pictures of README.md from a real run, as root"
	@echo "make deps      install build and test dependencies on Debian"
	@echo "make clean     delete the build output, but not the cached trees"

deps:
	@tests/deps.sh

deps-vm:
	@tests/deps.sh vm

# At a fixed address: relocations would dirty pages of the idle supervisor.
binary:
	@RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
		$(CARGO) rustc --release --locked --target $(TARGET) --bin coracle -- $(LINK) $(ORDERED)
	@$(CARGO) build --release --locked --package coracle-pull
	@echo "$(RELEASE)"

# The linker's map has the names of functions, which the program does not have.
order: deps
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
		$(CARGO) rustc --release --locked --target $(TARGET) --bin coracle -- $(LINK) -C link-arg=-Wl,-Map=target/map.txt
	tests/order/order.sh "$(RELEASE)" target/map.txt $(ORDER)

# The units contain the path below /usr, which is replaced for another PREFIX. Missing directories are skipped.
install: $(INSTALL_NEEDS)
	@install -Dm755 "$(BINARY)" "$(bindir)/coracle"
	shopt -s nullglob
	for unit in units/*.service units/*.socket units/*.slice units/*.target units/*.path; do
		install -Dm644 "$$unit" "$(libdir)/system/$${unit##*/}"
		sed -i 's|/usr/bin/coracle|$(PREFIX)/bin/coracle|g' "$(libdir)/system/$${unit##*/}"
	done
	for other in $(NEIGHBOURS); do
		install -d "$(libdir)/system/$$other.service.wants"
		ln -sfn "../coracle-network-reload@.service" "$(libdir)/system/$$other.service.wants/coracle-network-reload@$$other.service"
	done
	# apparmor.service loads the profiles at the next boot; a host with active AppArmor loads them now.
	for file in abstractions/coracle-machine coracle-machine coracle-machine-nesting; do
		install -Dm644 "apparmor/$$file" "$(DESTDIR)/etc/apparmor.d/$$file"
	done
	if [ -z "$(DESTDIR)" ] && [ "$$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] &&
		command -v apparmor_parser >/dev/null; then
		apparmor_parser --replace /etc/apparmor.d/coracle-machine{,-nesting}
	fi
	# Root of a machine can leave setuid programs in its tree, so users of the host must not reach it.
	install -Dm644 tmpfiles.d/coracle.conf "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/coracle.conf"
	# systemd-sysctl.service sets it at the next boot; without DESTDIR it is set now.
	install -Dm644 sysctl.d/10-coracle.conf "$(DESTDIR)$(PREFIX)/lib/sysctl.d/10-coracle.conf"
	if [ -z "$(DESTDIR)" ] && [ "$$(cat /proc/sys/fs/inotify/max_user_instances)" -lt 8192 ]; then
		sysctl --quiet --load "$(PREFIX)/lib/sysctl.d/10-coracle.conf" || true
	fi
	install -Dm644 udev/90-coracle.rules "$(DESTDIR)$(PREFIX)/lib/udev/rules.d/90-coracle.rules"
	install -d "$(DESTDIR)/var/lib/machines"
	chmod 0700 "$(DESTDIR)/var/lib/machines"
	install -Dm644 ssh/10-coracle.conf "$(DESTDIR)/etc/ssh/ssh_config.d/10-coracle.conf"
	install -Dm644 firewalld/coracle.xml "$(DESTDIR)$(PREFIX)/lib/firewalld/zones/coracle.xml"
	ln -sfn coracle "$(DESTDIR)$(PREFIX)/bin/autopkgtest-virt-coracle"
	# Outside of PATH: programs find it only by a diversion.
	install -d "$(DESTDIR)$(PREFIX)/lib/coracle"
	for name in systemd-nspawn schroot unschroot; do ln -sfn ../../bin/coracle "$(DESTDIR)$(PREFIX)/lib/coracle/$$name"; done
	if [ -e "$(PULL)" ]; then install -Dm755 "$(PULL)" "$(DESTDIR)$(PREFIX)/lib/coracle/coracle-pull"; fi
	install -d "$(libdir)/system-generators"
	ln -sfn ../../../bin/coracle "$(libdir)/system-generators/coracle-generator"
	for file in dbus/*.conf; do install -Dm644 "$$file" "$(sharedir)/dbus-1/system.d/$${file##*/}"; done
	for file in dbus/*.service; do install -Dm644 "$$file" "$(sharedir)/dbus-1/system-services/$${file##*/}"; done
	for file in dbus/*.xml; do install -Dm644 "$$file" "$(sharedir)/dbus-1/interfaces/$${file##*/}"; done
	for file in dbus/*.policy; do install -Dm644 "$$file" "$(sharedir)/polkit-1/actions/$${file##*/}"; done
	for file in dbus/examples/*; do install -Dm644 "$$file" "$(sharedir)/doc/coracle/dbus/$${file##*/}"; done
	for page in man/*.[158]; do
		install -Dm644 "$$page" "$(sharedir)/man/man$${page##*.}/$${page##*/}"
	done
	for file in distributions.d/*.toml; do
		install -Dm644 "$$file" "$(DESTDIR)$(PREFIX)/lib/coracle/distributions.d/$${file##*/}"
	done
	for file in machines.d/*.toml; do
		install -Dm644 "$$file" "$(sharedir)/doc/coracle/machines.d/$${file##*/}"
	done
	for file in build.d/*.toml; do
		install -Dm644 "$$file" "$(sharedir)/doc/coracle/build.d/$${file##*/}"
	done
	for file in examples/*; do install -Dm644 "$$file" "$(sharedir)/doc/coracle/examples/$${file##*/}"; done
	# The directories in which Ansible looks for plugins.
	for kind in connection inventory; do
		install -Dm644 "contrib/ansible/plugins/$$kind/coracle.py" "$(sharedir)/ansible/plugins/$$kind/coracle.py"
	done
	for file in contrib/*/README.md contrib/grafana/*.json; do
		install -Dm644 "$$file" "$(sharedir)/doc/coracle/$${file#contrib/}"
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

# Updates of systemd then leave the link alone, and keep its program as systemd-nspawn.systemd.
divert:
	@test -x "$(PREFIX)/lib/coracle/systemd-nspawn"
	dpkg-divert --quiet --local --rename --divert /usr/bin/systemd-nspawn.systemd --add /usr/bin/systemd-nspawn
	ln -sfn "$(PREFIX)/lib/coracle/systemd-nspawn" /usr/bin/systemd-nspawn

undivert:
	@if [ -L /usr/bin/systemd-nspawn ]; then rm /usr/bin/systemd-nspawn; fi
	dpkg-divert --quiet --local --rename --remove /usr/bin/systemd-nspawn

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	$(CARGO) clippy --locked --package coracle-pull --all-targets --quiet -- -D warnings
	$(CARGO) clippy --locked --test vm --test callers --quiet -- -D warnings
	$(CARGO) clippy --locked --target $(TARGET) --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	shellcheck --external-sources $(SCRIPTS)
	# The tokio features that deny.toml forbids, checked in the real build: they start threads or catch signals.
	features=$$($(CARGO) tree --locked --target $(TARGET) --edges normal,features --invert tokio)
	if grep -E 'tokio feature "($(TOKIO_BANNED))"' <<<"$$features"; then exit 1; fi

# `make test-callers` and the other lanes of `make test-all` build their own trees.
trees:
	tests/trees/build.sh --list | grep -v -e callers -e host-clients- | timeout --kill-after=30 $(TREES_BOUND) xargs -n1 -P2 tests/trees/build.sh

# Linking the release binary takes minutes on one processor; the lints use the other one.
build-and-lint: deps
	$(MAKE) --no-print-directory binary & build=$$!
	failed=0
	$(MAKE) --no-print-directory lint || failed=1
	wait "$$build" || failed=1
	exit "$$failed"

# Two hosts per processor: half of the time tests wait.
test: deps trees build-and-lint
	CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=$$((2 * $$(nproc))) \
		timeout --kill-after=30 $(TEST_BOUND) $(CARGO) test --locked --no-fail-fast -- --include-ignored
	$(CARGO) test --locked --package coracle-pull --quiet

# `make test` has run the suite on Debian 13. The last lane runs it on hosts that are machines of coracle.
test-all: test test-images test-callers
	for lane in SUITE=bookworm SUITE=sid BY=coracle; do
		echo "== hosts of $$lane"
		env "CORACLE_HOST_$$lane" CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=2 \
			timeout --kill-after=30 $(TEST_BOUND) $(CARGO) test --locked --no-fail-fast --tests -- --include-ignored
	done
	echo "== 40 machines"
	CORACLE_MACHINES=40 CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(TEST_BOUND) \
		$(CARGO) test --locked --test hosts -- --include-ignored many::

# The tests of images run on the file system of /var/tmp, which is ext4 in `make test`.
test-images: deps trees binary
	for kind in xfs btrfs; do
		echo "== images on $$kind"
		CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=2 timeout --kill-after=30 $(TEST_BOUND) \
			tests/file-systems.sh $$kind $(CARGO) test --locked --no-fail-fast --lib --test hosts -- --include-ignored \
			image stack clone snapshot tree:: ephemeral:: archives::
	done

# The table of tests/nspawn with the systemd-nspawn of each host and with coracle under that name; `make test` has it for
# Debian 13.
conformance: deps trees binary
	for suite in trixie bookworm sid; do
		CORACLE_HOST_SUITE="$$suite" CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(TEST_BOUND) \
			$(CARGO) test --locked --test hosts -- --nocapture conformance::
	done

test-callers: deps binary
	CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=2 timeout --kill-after=30 $(TEST_BOUND) \
		$(CARGO) test --locked --no-fail-fast --test callers -- --nocapture

# One virtual machine per processor: each emulates one.
test-vm: deps-vm binary
	tests/vm/build.sh
	CORACLE_BINARY="$(RELEASE)" RUST_TEST_THREADS=$$(nproc) \
		timeout --kill-after=30 $(VM_BOUND) $(CARGO) test --locked --test vm

# Every system call of a start fails once, and every process is killed at every call. Takes an hour.
faults: deps binary
	CORACLE_FAULTS=all CORACLE_BINARY="$(RELEASE)" $(CARGO) test --locked --test hosts -- --nocapture \
		matrix:: interruption:: session_faults:: image_faults:: image_sources_faults:: clone_faults:: \
		oci::a_killed snapshots::a_snapshot snapshots::a_rollback

# Ten minutes of random starts and kills, then starts from trees that change. Takes half an hour.
storm: deps binary
	CORACLE_STORM=600 CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(TEST_BOUND) \
		$(CARGO) test --locked --test hosts -- --nocapture random_operations_lose
	CORACLE_RACES=100000 timeout --kill-after=30 $(BENCH_BOUND) $(CARGO) test --locked --test races

demo: deps binary
	@tests/demo.sh "$(RELEASE)"

probe: deps binary
	CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(BENCH_BOUND) \
		$(CARGO) bench --locked --profile dev --bench bench -- probe

# The benchmark itself is a debug build; it measures the release binary.
bench: deps binary
	CORACLE_BINARY="$(RELEASE)" timeout --kill-after=30 $(BENCH_BOUND) \
		$(CARGO) bench --locked --profile dev --bench bench -- $(PARTS)

# The pictures and the terminal session of README.md, from a real run in the virtual machine, and the panels of the
# dashboard, from a Prometheus with the metrics of that run.
picture: deps-vm binary
	@docs/terminal.sh "$(RELEASE)"

clean:
	$(CARGO) clean
