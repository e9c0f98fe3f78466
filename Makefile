# SPDX-License-Identifier: GPL-3.0-or-later
#
#   make            build the library and the C program
#   make install    into $(DESTDIR)$(PREFIX), /usr/local by default
#   make deb        Debian packages, into target/deb
#   make demo       one build, offloaded by a real guix-daemon to a real build machine
#   make bench      offloaded builds, timed against the stock script
#   make bench-memory  the memory that both take for files of 4 GiB
#   make check      every test; what .ci/run runs
#   make quick      some of those that need neither root nor a farm
#   make farm       the tests on real Guix hosts, or with ONLY=NAME those that have that in their names
#   make check-packages  builds and installs the Debian packages on a fresh Debian
#   make check-guix the package for Guix: what can be tried of it without a network
#   make check-reproducible  builds the same in two directories, and compares
#   make lint       rustfmt, clippy, rustdoc
#   make fuzz       ten minutes of each fuzz target (see fuzz/README.md); needs cargo-fuzz
#   make torture    faults at random moments of builds, each 20 times (TORTURE_RUNS), and a table of what came of them
#   make doc        the documentation of the Rust code, into target/doc
#   make setup      install what the above need, on Debian; check and demo do it themselves
#   make lab-clean  remove the lab's hosts and the root file systems they are made from
#
# demo, check, torture and setup must run as root: all but the last make a farm of hosts out of namespaces (see
# tests/lab/lab).

CARGO  ?= cargo
CC     ?= cc
CXX    ?= c++
AR     ?= ar
OBJCOPY ?= objcopy
MAKEINFO ?= makeinfo
CFLAGS ?= -O2 -g -Wall -Wextra

version := $(shell sed -n 's/^version = "\(.*\)"/\1/p;/^version/q' Cargo.toml)
abi     := $(shell sed -n 's/^pub const GUIX_OFFLOAD_ABI_VERSION: u32 = \([0-9]*\);.*/\1/p' src/ffi/version.rs)
soname  := libguix_offload.so.$(abi)
target  := $(or $(CARGO_TARGET_DIR),target)
release := $(target)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release
stage   := $(CURDIR)/target/stage
lab     := tests/lab/lab
# Only where there is a makeinfo.
info_manual := $(if $(shell command -v $(MAKEINFO)),$(release)/guix-offload.info)

# Debian's names: for building, then for the lab.
packages := gcc g++ libc6-dev make pkg-config libsqlite3-dev libgcrypt20-dev libssl-dev zlib1g-dev \
            mmdebstrap debian-archive-keyring iproute2 nftables openssh-client openssh-server procps \
            util-linux guile-3.0 python3-minimal valgrind binutils libssh2-1 texinfo

.PHONY: all library setup packages check torture doc demo bench bench-memory fuzz clean lab-clean
all: library $(release)/guix-offload $(release)/verbs $(info_manual)

include install.mk

# The paths of this checkout and of this user's crates are in no file that is made.
cargo_home := $(or $(CARGO_HOME),$(HOME)/.cargo)
anonymous  := --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$(cargo_home)=cargo
with_flags  = RUSTFLAGS="$(strip $(RUSTFLAGS) $(anonymous))"
c_flags     = $(CPPFLAGS) $(CFLAGS) -ffile-prefix-map=$(CURDIR)=.

# Cargo is asked only after a change, so that `make install` needs no Cargo: root may have none.
built := $(release)/.built
$(built): Cargo.toml Cargo.lock build.rs $(shell find src -type f)
	$(with_flags) $(CARGO) build --locked --release --lib --target-dir $(target)
	touch $@
library: $(built) $(if $(filter yes,$(STATIC)),$(release)/static/libguix_offload.a)

# One object file that keeps the names of libssh2, zstd and Rust to itself: the program may have a libssh2 of its own.
# Without LLVM's code, which Rust's library has beside the machine's: ar takes it for what it is to look into.
$(release)/static/libguix_offload.a: $(built)
	mkdir -p $(@D)
	nm --defined-only $(release)/libguix_offload.a 2>/dev/null | \
	  sed -n 's/.* T \(guix_offload_.*\)/--undefined=\1/p' >$(@D)/exports
	$(CC) -r -nostdlib -Wl,--force-group-allocation,@$(@D)/exports -o $(@D)/guix-offload.o \
	  $(release)/libguix_offload.a
	$(OBJCOPY) --wildcard --keep-global-symbol='guix_offload_*' \
	  --remove-section=.llvmbc --remove-section=.llvmcmd $(@D)/guix-offload.o
	rm -f $@
	$(AR) rcsD $@ $(@D)/guix-offload.o
	rm $(@D)/guix-offload.o

ifeq ($(RUNPATH),yes)
runpath := $(call relative,$(libdir),$(libexecdir))
link_runpath := -Wl,-rpath,'$$ORIGIN/$(runpath)'
endif
.PHONY: force
$(release)/.runpath: force
	@mkdir -p $(@D)
	@echo '$(runpath)' | cmp -s - $@ || echo '$(runpath)' >$@

commands := farm check scan authorize drain explain log stats keeper
program_sources := $(patsubst %,bindings/c/%.c,guix-offload report $(commands))
$(release)/guix-offload: $(program_sources)
$(release)/verbs: bindings/c/verbs.c
$(release)/guix-offload $(release)/verbs: $(built) $(release)/.runpath $(wildcard bindings/c/*.h) include/guix-offload.h
	$(CC) $(c_flags) -Iinclude -o $@ $(filter %.c,$^) -L$(release) -lguix_offload $(link_runpath) $(LDFLAGS)

$(release)/guix-offload.info: $(wildcard docs/texinfo/*.texi) Cargo.toml
	mkdir -p $(@D)
	echo '@set VERSION $(version)' >$(@D)/version.texi
	$(MAKEINFO) -I docs/texinfo -I $(@D) -o $@ docs/texinfo/guix-offload.texi

cxx_flags := $(CFLAGS) -pedantic -Werror -Iinclude -Ibindings/cxx

# The C++ header, in all the versions of C++ that it is for.
.PHONY: cxx-test
cxx-test: library
	mkdir -p target/cxx-test/state
	ln -sf $(CURDIR)/$(release)/libguix_offload.so target/cxx-test/$(soname)
	set -e; for version in 11 14 17 20; do \
	  $(CXX) -std=c++$$version $(cxx_flags) -fsanitize=address,undefined -fno-sanitize-recover \
	    -o target/cxx-test/test bindings/cxx/test.cc -L$(release) -lguix_offload -Wl,-rpath,'$$ORIGIN'; \
	  target/cxx-test/test $(CURDIR)/target/cxx-test/state; done

# These run on the lab's heads, whose C++ library may be another one.
in_guix_daemon := $(stage)/libexec/goals $(stage)/libexec/bench
$(in_guix_daemon): $(stage)/libexec/%: install bindings/guix-daemon/test/%.cc \
  $(wildcard bindings/guix-daemon/*.* bindings/guix-daemon/test/*.hh)
	$(CXX) -std=c++11 $(cxx_flags) -Ibindings/guix-daemon -o $@ \
	  bindings/guix-daemon/test/$*.cc bindings/guix-daemon/offload-agent.cc \
	  -L$(release) -lguix_offload -static-libstdc++ -static-libgcc -Wl,-rpath,'$$ORIGIN/../lib'

# What the lab's heads have as /opt/guix-offload: compiled for the Guix there; with Guix 1.2.0, all was built there, by
# `make install`, but not optimized, which would take longer than it saves.
.PHONY: staged staged-old staged-new
staged: $(in_guix_daemon)
	$(lab) run-on 1.5.0 $(stage) guile --no-auto-compile /opt/guix-offload/share/guix-offload/compile.scm
staged-old:
	$(lab) run-on 1.2.0 $(stage)-1.2.0 $(there)
# With Debian 13's OpenSSL, for the key exchanges that it knows, and with its rustc, the oldest that is supported.
staged-new:
	$(lab) run-on debian-13 $(stage)-debian-13 $(there)
there := env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=none \
  make -s install DESTDIR= PREFIX=/opt/guix-offload

# Debian packages, into $(target)/deb. DEB_FLAGS=-d does not ask whether what it takes is installed as Debian packages.
.PHONY: deb check-packages check-guix check-reproducible
deb := $(target)/deb/guix-offload-$(version)
deb:
	rm -rf $(target)/deb
	mkdir -p $(deb)
	tar -c --exclude=./target --exclude=./.git . | tar -x -C $(deb)
	cd $(deb) && dpkg-buildpackage -b -us -uc $(DEB_FLAGS)

# Builds them on Debian unstable, and installs them beside Debian's guix there.
check-packages: packages
	$(began)
	$(CARGO) fetch --locked
	tests/packages
	$(passed)

# The package for Guix, with Debian's guix and Debian's compilers.
check-guix: packages
	$(began)
	$(CARGO) fetch --locked
	tests/guix/check build
	$(passed)

check-reproducible: packages
	$(began)
	$(CARGO) fetch --locked
	tests/reproducible
	$(passed)

setup: packages
	@$(lab) base

packages:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust first" >&2; exit 1; }
	@dpkg-query -W -f '$${db:Status-Status}\n' $(packages) 2>/dev/null | \
	  grep -cx installed | grep -qx $(words $(packages)) || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(packages); }

# Most tests wait, for time limits and for answers, so steps go on side by side. What one says is shown as a whole when
# it ends; after one has failed, no other begins. The tests of tests/farm share the hosts of their farm and run one at a
# time, but here are several farms, each with a share of the tests. A farm has no way out to the network: all is
# fetched and compiled before.
check: packages
	$(CARGO) fmt --check
	$(CARGO) fetch --locked
	rm -f $(programs)/failures
	$(MAKE) --no-print-directory -j4 --output-sync=target check-base $(shards) check-unit check-c check-torture \
	  check-guix-package || { cat $(programs)/failures 2>/dev/null; exit 1; }
	@echo "all steps of make check have passed"

.PHONY: lint quick farm
lint:
	$(CARGO) fmt --check
	$(MAKE) --no-print-directory check-lint

# The unit tests of those layers that start no program but Python, less those that say in their names that they need
# root.
quick:
	$(CARGO) fmt --check
	$(CARGO) test --lib -- archive:: build:: choose:: daemon:: doors:: ground:: report:: --skip needs_root
	$(CARGO) test --test layers --test width --test limits --test dependencies --test header \
	  --test abi --test manuals
	@echo "make quick leaves out the layers ffi, machine, remote, ssh and store, and tests named ...needs_root"

farm: setup
	$(MAKE) check-staged
	$(MAKE) staged-old staged-new
	$(CARGO) test --test farm --no-run
	LAB_INSTALL=$(stage) LAB_INSTALL_OLD=$(stage)-1.2.0 $(lab) with-farm -- \
	  $(CARGO) test --offline --test farm -- --test-threads=1 $(ONLY)

shards   := $(addprefix check-farm-,1 2)
programs := $(target)/tests
in_farm   = LAB_FARM=$(subst -,,$(@:check-%=%)) LAB_INSTALL=$(stage) LAB_INSTALL_OLD=$(stage)-1.2.0 \
            exec $(lab) with-farm
began     = @date '+== $@ began at %T'
passed    = @date '+== $@ passed at %T'

.PHONY: check-base check-lint check-built check-staged check-unit check-torture check-c check-guix-package $(shards)
staged-old staged-new: | check-base
check-base:
	$(began)
	$(lab) base
	$(passed)

check-guix-package: | check-base
	$(began)
	tests/guix/check
	$(passed)

check-lint:
	$(began)
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test farm --test torture -- -D warnings
	$(MAKE) doc
	$(passed)

# With a link to each program that runs in a farm: there, cargo would wait for whatever else is compiled.
check-built: check-lint
	$(began)
	$(CARGO) test --no-run
	$(CARGO) test --test farm --test torture --no-run
	mkdir -p $(programs) && >$(programs)/queue
	$(CARGO) test --test farm --test torture --no-run --message-format=json 2>/dev/null | \
	  sed -n 's|.*"executable":"\([^"]*/\([a-z]*\)-[0-9a-f]*\)".*|ln -sf \1 $(programs)/\2|p' | sh -ex
	$(passed)

check-staged:
	$(began)
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	$(MAKE) -C c-tests farm
	$(passed)

$(shards): check-farm-%: check-built check-staged staged-old staged-new
	$(began)
	$(in_farm) -- tests/lab/shard $(programs)/queue $(programs)/failures $(programs)/farm
	$(passed)

check-torture: check-built check-staged
	$(began)
	$(in_farm) $(torture_farm) -- $(programs)/torture
	$(passed)

check-unit: check-built
	$(began)
	RUST_TEST_THREADS=4 $(CARGO) test
	HOSTILE_KEEPER=1 RUST_TEST_THREADS=4 $(CARGO) test --test hostile
	$(passed)

# Last of those that compile: its library has one more function, and takes the place of the one that the tests are for.
check-c: check-unit check-staged
	$(began)
	$(MAKE) cxx-test
	tests/install.sh target/install-test
	$(MAKE) -C c-tests all
	GUIX_OFFLOAD_LIBRARY=$(stage)/lib/libguix_offload.so guile --no-auto-compile -L bindings/guile \
	  bindings/guile/tests/binding.scm include/guix-offload.h
	$(passed)

# Lanes of a head and two machines each; see tests/torture/main.rs.
torture_farm := a2head ahead aw as bhead:unprivileged bw bs chead cw cs:user=builder dhead dw ds ehead ew es

torture: setup
	$(CARGO) test --test torture --no-run
	$(MAKE) install DESTDIR= PREFIX=$(stage)
	TORTURE_RUNS=$${TORTURE_RUNS:-20} LAB_INSTALL=$(stage) $(lab) with-farm $(torture_farm) -- \
	  $(CARGO) test --offline --test torture

# For readers of the code: what is private is documented too, and linked to.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
	  $(CARGO) doc --no-deps --lib --document-private-items

demo: setup
	$(MAKE) install DESTDIR= PREFIX=$(stage)
	LAB_INSTALL=$(stage) $(lab) with-farm head w1 -- tests/lab/demo.sh

bench_farm := shead s2head head h2head ghead ahead w1 w2 w3 pub

bench: setup
	$(CARGO) bench --bench farm --no-run
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	LAB_DISKS=memory LAB_INSTALL=$(stage) $(lab) with-farm $(bench_farm) -- $(CARGO) bench --offline --bench farm

# As `bench`, of the one row that takes more space than most machines have memory.
bench-memory: setup
	$(CARGO) bench --bench farm --no-run
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	BENCH_RUNS=1 BENCH_ONLY="peak memory" LAB_INSTALL=$(stage) $(lab) with-farm $(bench_farm) -- \
	  $(CARGO) bench --offline --bench farm

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= restore replies machine_file signature forged request abi

# AddressSanitizer is for nightly toolchains, or for those that are told that they are one.
fuzz:
	set -e; for target in $(FUZZ_TARGETS); do RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- \
	  -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=20 -malloc_limit_mb=256; done

clean:
	$(CARGO) clean

lab-clean:
	$(lab) clean
