# SPDX-License-Identifier: GPL-3.0-or-later
#
#   make            build the library and the C program
#   make install    into $(DESTDIR)$(PREFIX), /usr/local by default
#   make demo       one build, offloaded by a real guix-daemon to a real build machine
#   make bench      offloaded builds, timed against the stock script
#   make bench-memory  the memory that both take for files of 4 GiB
#   make check      every test; what .ci/run runs
#   make fuzz       ten minutes of each fuzz target (see fuzz/README.md); needs cargo-fuzz
#   make torture    faults at random moments of builds, each 20 times (TORTURE_RUNS), and a table of what came of them
#   make doc        the documentation of the Rust code, into target/doc
#   make setup      install what the above need, on Debian; check and demo do it themselves
#   make lab-clean  remove the lab's hosts and the root file systems they are made from
#
# demo, check, torture and setup must run as root: all but the last make a farm of hosts out of namespaces (see
# tests/lab/lab).

PREFIX ?= /usr/local
CARGO  ?= cargo
CC     ?= cc
CXX    ?= c++
CFLAGS ?= -O2 -g -Wall -Wextra

version := $(shell sed -n 's/^version = "\(.*\)"/\1/p;/^version/q' Cargo.toml)
soname  := libguix_offload.so.$(firstword $(subst ., ,$(version)))
target  := target
release := $(target)/release
stage   := $(CURDIR)/target/stage
prefix  := $(DESTDIR)$(PREFIX)
lab     := tests/lab/lab

guile_modules := guix-offload.scm guix-offload/foreign.scm guix-offload/replace.scm guix-offload/run.scm guix/scripts/offload.scm

# Which compile the modules, each for its own version, if they are there.
guiles := guile-2.2 guile-3.0

# Debian's names: for building, then for the lab.
packages := gcc g++ libc6-dev make pkg-config libsqlite3-dev libgcrypt20-dev libssl-dev zlib1g-dev \
            mmdebstrap debian-archive-keyring iproute2 nftables openssh-client openssh-server procps \
            util-linux guile-3.0 python3-minimal valgrind binutils

# What a program that links the static library needs besides it.
private_libs := -lsqlite3 -lgcrypt -lssl -lcrypto -lz -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc

.PHONY: all library setup install check torture doc demo bench bench-memory fuzz clean lab-clean
all: $(release)/guix-offload $(release)/verbs

library:
	$(CARGO) build --release --lib

# Cargo knows when the library is stale, make does not: so the program follows the library, which is cheap.
$(release)/guix-offload: bindings/c/guix-offload.c bindings/c/farm.c
$(release)/verbs: bindings/c/verbs.c
$(release)/guix-offload $(release)/verbs: library bindings/c/program.h include/guix-offload.h
	$(CC) $(CFLAGS) -Iinclude -o $@ $(filter %.c,$^) -L$(release) -lguix_offload -Wl,-rpath,'$$ORIGIN/../lib' $(LDFLAGS)

install: all
	install -d $(prefix)/bin $(prefix)/lib/pkgconfig $(prefix)/include $(prefix)/libexec
	install -m 755 $(release)/libguix_offload.so $(prefix)/lib/libguix_offload.so.$(version)
	ln -sf libguix_offload.so.$(version) $(prefix)/lib/$(soname)
	ln -sf $(soname) $(prefix)/lib/libguix_offload.so
	install -m 644 $(release)/libguix_offload.a $(prefix)/lib/
	install -m 644 include/guix-offload.h bindings/cxx/guix-offload.hh $(prefix)/include/
	install -m 755 $(release)/guix-offload bindings/guile/guix-offload-guile $(prefix)/libexec/
	ln -sf ../libexec/guix-offload $(prefix)/bin/guix-offload
	sed -e 's|@PREFIX@|$(PREFIX)|;s|@VERSION@|$(version)|;s|@PRIVATE_LIBS@|$(private_libs)|' \
	  bindings/c/guix-offload.pc.in >$(prefix)/lib/pkgconfig/guix-offload.pc
	for version in 3.0 2.2; do for module in $(guile_modules); do \
	  file=$(prefix)/share/guile/site/$$version/$$module; \
	  install -d $$(dirname $$file) && sed -e 's|@LIBDIR@|$(PREFIX)/lib|' bindings/guile/$$module >$$file.new && \
	  if cmp -s $$file.new $$file; then rm $$file.new; else mv $$file.new $$file; fi || exit 1; \
	done; done
	install -D -m 644 bindings/guile/extension.scm $(prefix)/share/guix/extensions/offload.scm
	for guile in $(guiles); do ! command -v $$guile >/dev/null || \
	  $$guile --no-auto-compile bindings/guile/compile.scm $(prefix) >/dev/null || exit 1; done

cxx_flags := $(CFLAGS) -pedantic -Werror -Iinclude -Ibindings/cxx

# The C++ header, in all the versions of C++ that it is for.
.PHONY: cxx-test
cxx-test: library
	mkdir -p target/cxx-test/state
	ln -sf $(CURDIR)/$(release)/libguix_offload.so target/cxx-test/$(soname)
	set -e; for version in 11 14 17 20; do \
	  $(CXX) -std=c++$$version $(cxx_flags) -fsanitize=address,undefined -fno-sanitize-recover -o target/cxx-test/test \
	    bindings/cxx/test.cc -L$(release) -lguix_offload -Wl,-rpath,'$$ORIGIN'; \
	  target/cxx-test/test $(CURDIR)/target/cxx-test/state; done

# These run on the lab's heads, whose C++ library may be another one.
seam := $(stage)/libexec/goals $(stage)/libexec/bench
$(seam): $(stage)/libexec/%: install bindings/guix-daemon/test/%.cc $(wildcard bindings/guix-daemon/*.* bindings/guix-daemon/test/*.hh)
	$(CXX) -std=c++11 $(cxx_flags) -Ibindings/guix-daemon -o $@ \
	  bindings/guix-daemon/test/$*.cc bindings/guix-daemon/offload-agent.cc \
	  -L$(release) -lguix_offload -static-libstdc++ -static-libgcc -Wl,-rpath,'$$ORIGIN/../lib'

# What the lab's heads have as /opt/guix-offload: compiled for the Guix there; with Guix 1.2.0, all was built there, by
# `make install`, but not optimized, which would take longer than it saves.
.PHONY: staged staged-old staged-new
staged: $(seam)
	$(lab) run-on 1.5.0 $(stage) guile --no-auto-compile bindings/guile/compile.scm /opt/guix-offload
staged-old:
	$(lab) run-on 1.2.0 $(stage)-1.2.0 $(there)
# With OpenSSL 3.5 or later, for the key exchanges that it knows.
staged-new:
	$(lab) run-on 1.5.0 $(stage)-1.5.0 $(there)
there := env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=none \
  make -s install target=/target DESTDIR= PREFIX=/opt/guix-offload

setup:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust first" >&2; exit 1; }
	@dpkg-query -W -f '$${db:Status-Status}\n' $(packages) 2>/dev/null | grep -cx installed | grep -qx $(words $(packages)) || { \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(packages); }
	@$(lab) base

# The tests of tests/farm run inside the farm, which has no way out to the network: everything is compiled before.
check: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test farm --test torture -- -D warnings
	$(CARGO) test
	$(MAKE) cxx-test
	$(CARGO) test --test farm --test torture --no-run
	$(MAKE) doc
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	$(MAKE) staged-old
	$(MAKE) staged-new
	$(MAKE) -C c-tests -j2 --output-sync all farm
	GUIX_OFFLOAD_LIBRARY=$(stage)/lib/libguix_offload.so guile --no-auto-compile -L bindings/guile \
	  bindings/guile/tests/binding.scm include/guix-offload.h
	LAB_INSTALL=$(stage) LAB_INSTALL_OLD=$(stage)-1.2.0 $(lab) with-farm -- $(CARGO) test --offline --test farm -- --test-threads=1
	LAB_INSTALL=$(stage) $(lab) with-farm $(torture_farm) -- $(CARGO) test --offline --test torture

# Lanes of a head and two machines each; see tests/torture/main.rs.
torture_farm := a2head ahead aw as bhead:unprivileged bw bs chead cw cs:user=builder dhead dw ds ehead ew es

torture: setup
	$(CARGO) test --test torture --no-run
	$(MAKE) install DESTDIR= PREFIX=$(stage)
	TORTURE_RUNS=$${TORTURE_RUNS:-20} LAB_INSTALL=$(stage) $(lab) with-farm $(torture_farm) -- \
	  $(CARGO) test --offline --test torture

# For readers of the code: what is private is documented too, and linked to.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --no-deps --lib --document-private-items

demo: setup
	$(MAKE) install DESTDIR= PREFIX=$(stage)
	LAB_INSTALL=$(stage) $(lab) with-farm head w1 -- tests/lab/demo.sh

bench: setup
	$(CARGO) bench --bench farm --no-run
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	LAB_DISKS=memory LAB_INSTALL=$(stage) $(lab) with-farm shead head ghead ahead w1 w2 w3 -- $(CARGO) bench --offline --bench farm

# As `bench`, of the one row that takes more space than most machines have memory.
bench-memory: setup
	$(CARGO) bench --bench farm --no-run
	$(MAKE) staged DESTDIR= PREFIX=$(stage)
	BENCH_RUNS=1 BENCH_ONLY="peak memory" LAB_INSTALL=$(stage) $(lab) with-farm shead head ghead ahead w1 w2 w3 -- $(CARGO) bench --offline --bench farm

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
