# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2154
# The root file systems that hosts are layers over. Sourced by `lab`.
#
# Guix 1.5.0 is Debian unstable's package, Guix 1.2.0 Debian 11's. The release files of both are past their date. Debian
# 11 comes from its main section alone: its updates and security sections have moved. It has what it takes to build the
# library, too, because one that was built on a newer Debian cannot be loaded there.

recipe=2 # count up when anything here changes, so that an older base is not taken for this one
base_dir() { echo "$cache/base-$recipe/guix-$1"; }

base() {
  [ -d "$(base_dir 1.5.0)" ] && [ -d "$(base_dir 1.2.0)" ] && return
  [ "$(id -u)" = 0 ] || die "must be run as root: it makes a root file system"
  mkdir -p "$cache/base-$recipe"
  exec 8>"$cache/base.lock"
  flock 8 # another checkout may be at it
  rm -rf --one-file-system "$cache/base-$recipe"/*.new
  [ -d "$(base_dir 1.5.0)" ] || make_base 1.5.0 sid guile-zstd,busybox-static,strace
  # shellcheck disable=SC2016
  [ -d "$(base_dir 1.2.0)" ] || make_base 1.2.0 bullseye \
    busybox-static,gcc,make,libc6-dev,pkg-config,libssl-dev,libsqlite3-dev,libgcrypt20-dev,zlib1g-dev \
    --setup-hook='sed -i -e /-updates/d -e /security/d "$1/etc/apt/sources.list"'
  exec 8>&-
}

# Under a temporary name first: a base that is there is whole.
make_base() { # VERSION SUITE PACKAGES OPTION...
  local version=$1 suite=$2 packages=$3 dir i; shift 3
  dir=$(base_dir "$version")
  echo "lab: making a root file system with Guix $version (once)" >&2
  # In namespaces of its own, which a killed set-up leaves no process and no mount of.
  setpriv --pdeathsig KILL unshare --mount --pid --mount-proc --fork --kill-child \
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" \
      --include="guix,openssh-server,openssh-client,procps,iproute2,$packages" "$suite" "$dir.new" >"$cache/base.log" 2>&1 </dev/null ||
    { tail -n 30 "$cache/base.log" >&2; die "cannot make the root file system with Guix $version"; }
  chroot "$dir.new" groupadd -f --system guixbuild
  for i in 1 2 3 4 5 6 7 8; do
    chroot "$dir.new" useradd --system -g guixbuild -G guixbuild -d /var/empty -s /usr/sbin/nologin -c "Guix build user" "guixbuild$i"
  done
  mkdir -p "$dir.new/gnu/store" "$dir.new/var/guix" "$dir.new/etc/guix" "$dir.new/var/log/guix" "$dir.new/var/empty"
  rm -f "$dir.new"/etc/ssh/ssh_host_* "$dir.new"/etc/guix/signing-key.*
  mv "$dir.new" "$dir"
}

# `make install` of this checkout on the Debian of that Guix, into a directory that is /opt/guix-offload there. Rust and
# the crates are this machine's; neither they nor the base are written to.
install_on() { # VERSION DIR
  local lower source; lower=$(base_dir "$1"); source=$(cd "$here/../.." && pwd)
  [ "$(id -u)" = 0 ] || die "must be run as root: it makes a mount namespace"
  base
  mkdir -p "$2" "$source/target/guix-$1"
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$here/lab" _install_in \
    "$lower" "$source" "$source/target/guix-$1" "$(cd "$2" && pwd)" "$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}"
}

_install_in() { # LOWER SOURCE TARGET STAGE RUST CARGO
  local root=/mnt
  mount -t tmpfs install "$root"
  mkdir "$root"/{up,work,root}
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$root/up,workdir=$root/work" "$root/root"
  root=$root/root
  mkdir -p "$root"/{source,target,rust,cargo,opt/guix-offload}
  mount --bind "$2" "$root/source" && mount -o remount,ro,bind "$root/source"
  mount --bind "$3" "$root/target"
  mount --bind "$4" "$root/opt/guix-offload"
  mount --bind "$5" "$root/rust" && mount -o remount,ro,bind "$root/rust"
  mount --bind "$6" "$root/cargo" && mount -o remount,ro,bind "$root/cargo"
  mount -t proc proc "$root/proc"
  make_dev "$root/dev"
  # Optimizing would take longer than it saves.
  exec env -i PATH=/rust/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8 CARGO_HOME=/cargo CARGO_TARGET_DIR=/target \
    CARGO_NET_OFFLINE=true CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=none \
    chroot "$root" make -s -C /source install target=/target DESTDIR= PREFIX=/opt/guix-offload
}
