#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Checks `make install` as packagers and administrators use it, after `make`: install.sh DIRECTORY, to install below.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(realpath -m "$1")
rm -rf "$root"
fail() { echo "tests/install.sh: $*" >&2; exit 1; }
run() { make -s "$@" >"$root.log" 2>&1 || { cat "$root.log" >&2; fail "make $* failed"; }; }
files() { (cd "$root" && find . ! -type d | sort); }

# Root may have neither Cargo nor a compiler, and a umask that keeps others out: nothing is compiled, all can be read.
(umask 077; run install CARGO=false CC=false DESTDIR="$root" PREFIX=/usr/local)
closed=$(find "$root" -mindepth 1 ! -type l \( ! -perm -444 -o -type d ! -perm -555 \))
[ -z "$closed" ] || fail "others cannot read: $closed"
"$root/usr/local/bin/guix-offload" --version | grep -q libguix_offload || fail "the program does not run"
[ ! -e "$root/usr/local/share/guile/site/3.0/guix" ] || fail "a module of Guix is replaced"
grep -rqF "$PWD" "$root/usr/local" --include='*.so*' --include='*.a' --include=guix-offload --exclude-dir=share &&
  fail "the directory of the checkout is in: $(grep -rlF "$PWD" "$root/usr/local")"

# What is compiled does what its source does: a name that one module keeps from another is missed only here.
! grep '\.scm.*warning' "$root.log" || fail "Guile warns of the modules"
GUILE_LOAD_COMPILED_PATH=$root/usr/local/lib/guix-offload/guile/3.0 guile --no-auto-compile \
  -L "$root/usr/local/share/guix-offload/guile" "$PWD/bindings/guile/tests/compiled.scm" ||
  fail "the compiled modules do not work"

# Once more changes nothing, and uninstall leaves nothing.
compiled() { (cd "$root" && find . -name '*.go' -printf '%p %T@\n' | sort); }
before=$(compiled)
run install CARGO=false CC=false DESTDIR="$root" PREFIX=/usr/local
[ "$before" = "$(compiled)" ] || fail "modules were compiled again"
# What is compiled where Guix is.
for_guix=$root/usr/local/lib/guix-offload/guile/3.0/for-guix-1.5.0/guix/scripts
mkdir -p "$for_guix" && echo >"$for_guix/offload.go"
run uninstall DESTDIR="$root" PREFIX=/usr/local
[ -z "$(files)" ] || fail "uninstall leaves: $(files)"
rm -rf "$root"

# As a distribution has it: every directory another one, no static library, no directory in the program.
directories=(prefix=/p exec_prefix=/e bindir=/e/commands libdir=/e/lib64 libexecdir=/e/lib64/programs
  includedir=/p/headers datarootdir=/d mandir=/m
  infodir=/i docdir=/doc pkgconfigdir=/pc guilesitedir=/g/site guileccachedir=/g/ccache)
run install-strip DESTDIR="$root" "${directories[@]}" STATIC=no RUNPATH=no GUILE_VERSIONS=3.0
for file in e/commands/guix-offload e/lib64/libguix_offload.so e/lib64/programs/guix-offload-guile \
  p/headers/guix-offload.h \
  d/guix/extensions/offload.scm d/guix-offload/replace.scm d/guix-offload/guile/guix/scripts/offload/records.scm \
  m/man1/guix-offload.1 i/guix-offload.info \
  doc/LICENSE pc/guix-offload.pc \
  g/site/3.0/guix-offload.scm g/ccache/3.0/site-ccache/guix-offload.go \
  e/lib64/guix-offload/guile/3.0/guix-offload.go; do
  [ -e "$root/$file" ] || fail "there is no $file among: $(files)"
done
[ ! -e "$root/e/lib64/libguix_offload.a" ] || fail "STATIC=no has no effect"
[ ! -e "$root/g/site/2.2" ] || fail "GUILE_VERSIONS has no effect"
! readelf -d "$root/e/lib64/programs/guix-offload" | grep -q RUNPATH || fail "RUNPATH=no has no effect"
! readelf -SW "$root/e/lib64/libguix_offload.so" | grep -q '\.debug_' || fail "install-strip does not strip"
export PKG_CONFIG_PATH=$root/pc
[ "$(pkg-config --variable=libdir guix-offload)" = /e/lib64 ] || fail "guix-offload.pc has another libdir"
pkg-config --libs guix-offload | grep -q sqlite && fail "programs are linked with what only the library uses"
pkg-config --static --libs guix-offload | grep -q 'sqlite3.*gcrypt.*ssl.* -lz' || fail "guix-offload.pc lacks libraries"
# The binding finds the library from its own place, wherever the whole is, and without the link that is for compilers;
# so does the script that runs Guix with it.
rm "$root/e/lib64/libguix_offload.so"
for modules in g/site/3.0 d/guix-offload/guile; do
  GUILE_LOAD_COMPILED_PATH='' guile --no-auto-compile -L "$root/$modules" -c '(use-modules (guix-offload))
    (unless (string? (offload-version)) (exit 1))' || fail "Guile does not find the library from $modules"
done
mkdir -p "$root/bin"
printf '#!/bin/sh\necho "$@"\n' >"$root/bin/guix"
chmod 755 "$root/bin/guix"
said=$(PATH=$root/bin:$PATH "$root/e/lib64/programs/guix-offload-guile" offload status)
[ "$said" = "repl -- $root/d/guix-offload/run.scm status" ] ||
  fail "guix-offload-guile does not find its script"
rm -r "$root/bin"
# What others have in the same directories stays.
others=(doc/other d/guix-offload/guile/guix/other.scm e/lib64/guix-offload/guile/3.0/other.go)
for file in "${others[@]}"; do echo >"$root/$file"; done
run uninstall DESTDIR="$root" "${directories[@]}" GUILE_VERSIONS=3.0
for file in "${others[@]}"; do rm "$root/$file" || fail "uninstall removes $file of somebody else"; done
[ -z "$(files)" ] || fail "uninstall leaves: $(files)"
rm -rf "$root" "$root.log"
make -s all >/dev/null # as it was, for whatever comes next
