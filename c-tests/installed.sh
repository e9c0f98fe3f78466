#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Checks what `make install` put into a directory: installed.sh PREFIX VERSION
set -euo pipefail
prefix=$1 version=$2
cd "$(dirname "$0")"
library=$prefix/lib/libguix_offload.so

same() { [ "$2" = "$3" ] || { echo "$1: '$2' instead of '$3'" >&2; exit 1; }; }

# Nothing is exported but what symbols.txt lists, which changes only on purpose.
if ! diff -u symbols.txt <(nm -D --defined-only "$library" | awk '{ print $3 }' | LC_ALL=C sort); then
  echo "the exported symbols are not those of c-tests/symbols.txt" >&2
  exit 1
fi
# The header declares exactly these too.
diff -u symbols.txt <(grep -oE '\bguix_offload_[a-z0-9_]+\(' "$prefix/include/guix-offload.h" |
  grep -v '()' | tr -d '(' | LC_ALL=C sort -u)

# One version of the package, one of the ABI.
abi=$(sed -n 's/^#define GUIX_OFFLOAD_ABI_VERSION //p' "$prefix/include/guix-offload.h")
said=$(PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig pkg-config --modversion guix-offload)
same "version in guix-offload.pc" "$said" "$version"
same "SONAME" "$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')" "libguix_offload.so.$abi"
same "the library's file" "$(basename "$(readlink -f "$library")")" "libguix_offload.so.$version"
same "the loader's name for it" "$(readlink -f "$prefix/lib/libguix_offload.so.$abi")" "$(readlink -f "$library")"

# Guix's own modules are not touched, nor is there anything under their names that Guile would find.
others=$(find "$prefix/share/guile/site" -mindepth 2 -maxdepth 2 ! -name 'guix-offload*')
same "what is beside the binding" "$others" ""

# The fast ChaCha20 is in it, and libssh2's own, of chacha.c, is not. A library without symbols does not tell.
symbols=$(readelf -sW "$library")
if grep -q '\.symtab' <<<"$symbols"; then
  same "functions chacha_encrypt_bytes" "$(grep -c ' FUNC .* chacha_encrypt_bytes$' <<<"$symbols")" 1
  files=$(grep -oE ' FILE .* (cipher-chachapoly|chacha)\.c$' <<<"$symbols" | awk '{ print $NF }' | xargs)
  same "files of libssh2 that encrypt" "$files" cipher-chachapoly.c
fi
echo "$(wc -l <symbols.txt) symbols, version $version, ABI $abi"
