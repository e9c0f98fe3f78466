# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2154
# The root file systems that hosts are layers over. Sourced by `lab`.
#
# Guix 1.5.0 is Debian unstable's package, Guix 1.2.0 Debian 11's. The release files of both are past their date. Debian
# 11 comes from its main section alone: its updates and security sections have moved. It has what it takes to build the
# library, too, since one that was built on a newer Debian cannot be loaded there. So has Debian 13, which has no Guix
# here: its rustc is the oldest that is supported, and its OpenSSL knows more key exchanges than this machine's may.

recipe=5 # count up when anything here changes, so that an older base is not taken for this one
base_dir() { echo "$cache/base-$recipe/$1"; }

base() {
  [ -d "$(base_dir 1.5.0)" ] && [ -d "$(base_dir 1.2.0)" ] && [ -d "$(base_dir debian-13)" ] && return
  [ "$(id -u)" = 0 ] || die "must be run as root: it makes a root file system"
  mkdir -p "$cache/base-$recipe"
  exec 8>"$cache/base.lock"
  flock 8 # another checkout may be at it
  rm -rf --one-file-system "$cache/base-$recipe"/*.new
  local build=gcc,make,libc6-dev,pkg-config,libssl-dev,libsqlite3-dev,libgcrypt20-dev,zlib1g-dev,libzstd-dev
  local host=guix,openssh-server,openssh-client,procps,iproute2,busybox-static
  [ -d "$(base_dir 1.5.0)" ] || make_base 1.5.0 sid "$host,guile-zstd,strace,dropbear-bin"
  # shellcheck disable=SC2016
  [ -d "$(base_dir 1.2.0)" ] || make_base 1.2.0 bullseye "$host,$build" \
    --setup-hook='sed -i -e /-updates/d -e /security/d "$1/etc/apt/sources.list"'
  [ -d "$(base_dir debian-13)" ] || make_base debian-13 trixie "cargo,rustc,$build"
  exec 8>&-
}

# The one that Debian packages are made on: Debian unstable, with all that they need to be built and to be looked over.
base_for_packages() {
  base
  [ ! -d "$(base_dir packaging)" ] || return 0
  exec 8>"$cache/base.lock"
  flock 8
  [ -d "$(base_dir packaging)" ] || make_base packaging sid \
    build-essential,debhelper,lintian,cargo,rustc,guix,guile-3.0,pkgconf,libzstd-dev,texinfo \
    --include=libssl-dev,libsqlite3-dev,libgcrypt20-dev,zlib1g-dev
  exec 8>&-
}

# Under a temporary name first: a base that is there is whole.
make_base() { # NAME SUITE PACKAGES OPTION...
  local name=$1 suite=$2 packages=$3 dir i; shift 3
  dir=$(base_dir "$name")
  echo "lab: making a root file system, $name (once)" >&2
  # In namespaces of its own, which a killed set-up leaves no process and no mount of.
  setpriv --pdeathsig KILL unshare --mount --pid --mount-proc --fork --kill-child \
    mmdebstrap --quiet --variant=minbase \
      --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" \
      --include="$packages" "$suite" "$dir.new" >"$cache/base.log" 2>&1 </dev/null ||
    { tail -n 30 "$cache/base.log" >&2; die "cannot make the root file system $name"; }
  chroot "$dir.new" groupadd -f --system guixbuild
  for i in 1 2 3 4 5 6 7 8; do
    chroot "$dir.new" useradd --system -g guixbuild -G guixbuild -d /var/empty -s /usr/sbin/nologin \
      -c "Guix build user" "guixbuild$i"
  done
  mkdir -p "$dir.new/gnu/store" "$dir.new/var/guix" "$dir.new/etc/guix" "$dir.new/var/log/guix" "$dir.new/var/empty"
  rm -f "$dir.new"/etc/ssh/ssh_host_* "$dir.new"/etc/guix/signing-key.*
  mv "$dir.new" "$dir"
}

# Runs a command in this checkout on the root file system of that name, with DIR as /opt/guix-offload, for what must be
# built there. The crates are this machine's, and Rust where there is none; but for DIR and /target, nothing that is
# written stays.
run_on() { # NAME DIR COMMAND...
  local lower source target; lower=$(base_dir "$1"); source=$(cd "$here/../.." && pwd); target=$source/target/on-$1
  [ "$(id -u)" = 0 ] || die "must be run as root: it makes a mount namespace"
  if [ "$1" = packaging ]; then base_for_packages; else base; fi
  mkdir -p "$2" "$target"
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$here/lab" _run_in "$lower" "$source" "$target" \
    "$(cd "$2" && pwd)" "$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}" "${@:3}"
}

_run_in() { # LOWER SOURCE TARGET DIR RUST CARGO COMMAND...
  local root=/mnt directory
  mount -t tmpfs run "$root"
  mkdir "$root"/{up,work,root}
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$root/up,workdir=$root/work" "$root/root"
  root=$root/root
  for directory in source=$2 target=$3 opt/guix-offload=$4 rust=$5 cargo=$6; do
    mkdir -p "$root/${directory%%=*}"
    mount --bind "${directory#*=}" "$root/${directory%%=*}"
  done
  for directory in source rust cargo; do mount -o remount,ro,bind "$root/$directory"; done
  mount -t proc proc "$root/proc"
  make_dev "$root/dev"
  exec env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/rust/bin HOME=/root LC_ALL=C.UTF-8 CARGO_HOME=/cargo \
    CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true chroot "$root" sh -c 'cd /source && exec "$@"' sh "${@:7}"
}
