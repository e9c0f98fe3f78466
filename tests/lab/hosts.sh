# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2154
# The hosts of a farm, each a directory of $state: its disk (an overlay), options, log. Sourced by `lab`; what a host
# does itself, once it is on, is in `lab-host`.

host_dir() { [ -d "$state/$1/root" ] || die "no host named $1 in this farm"; echo "$state/$1"; }
host_names() { local d; for d in "$state"/*/root; do d=${d%/root}; echo "${d##*/}"; done; }
heads() { host_names | grep 'head$' || true; }
build_machines() { host_names | grep -v 'head$' || true; }
option() { grep -qx "$2" "$state/$1/options"; } # HOST OPTION
address() { host_dir "$1" >/dev/null; awk -v n="$1" '$2 == n { print $1 }' "$state/hosts"; }
farm_root() { local farm; farm=$(farm_pid) && echo "/proc/$farm/root"; }
root() { # nothing is printed on failure: a path is not to start at the real root
  local farm dir
  farm=$(farm_root) && dir=$(host_dir "$1") || exit 1
  echo "$farm$dir/root"
}

# Its first process: the only child of the unshare that made it, which is a child of the farm's first process. In the
# farm, its number is also in a file, which is found faster.
pid() {
  local farm outer
  if [ -n "${LAB_INSIDE:-}" ] && outer=$(cat "$state/$1/pid" 2>/dev/null) && [ -e "/proc/$outer" ]; then
    echo "$outer"
    return
  fi
  farm=$(farm_pid)
  outer=$(pgrep -P "$farm" -f " _enter $1\$") || die "host $1 is not running"
  pgrep -P "$outer" || die "host $1 is not running"
}

# Makes the disk of a host: an empty layer over the base.
new_host() {
  local name=${1%%:*} opts=, d
  [[ $name =~ ^[a-z][a-z0-9]{0,7}$ ]] || die "a host name is up to 8 letters and digits: $name"
  [ "$name" = "$1" ] || opts=${1#*:}
  [[ ,$opts =~ ^(,(|unprivileged|stranger|1\.2\.0|user=[a-z]+))*$ ]] || die "unknown option in $1; see: lab"
  d=$state/$name
  mkdir -p "$d"/{up,work,root}
  tr , '\n' <<<"$opts" >"$d/options"
  local key lower; lower=$(base_dir 1.5.0); ! option "$name" 1.2.0 || lower=$(base_dir 1.2.0)
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$d/up,workdir=$d/work" "$d/root"
  echo "$name" >"$d/root/etc/hostname"
  cp "$state/hosts" "$d/root/etc/hosts"
  cp "$d/options" "$d/root/etc/lab-options"
  cat "$state"/key{,_rsa}.pub >"$d/root/etc/lab-authorized-keys"
  mkdir -p "$d/root/opt/guix-offload" "$d/root/etc/guix"
  case $name in *head)
    for key in key key_rsa; do
      cp "$state/$key" "$d/root/etc/guix/offload_$key"; cp "$state/$key.pub" "$d/root/etc/guix/offload_$key.pub"
    done
  esac
  install -m 755 "$here/lab-host" "$d/root/usr/local/sbin/lab-host"
  install -m 644 -D "$here/builds.scm" "$d/root/usr/local/share/lab/builds.scm"
}

# Switches a host on, in the background.
boot() {
  rm -f "$state/$1/root/var/lib/lab-ready" "$state/$1/pid"
  setsid unshare --mount --net --pid --uts --ipc --fork --kill-child \
    "$here/lab" _enter "$1" </dev/null >"$state/$1/log" 2>&1 &
}

wait_for_host() { # HOST, and the process that `boot` left in the background
  local patience=$((SECONDS + 60))
  until [ -e "$state/$1/root/var/lib/lab-ready" ]; do
    if ! kill -0 "$2" 2>/dev/null || [ "$SECONDS" -gt "$patience" ]; then
      cat "$state/$1/log" >&2
      die "host $1 did not start"
    fi
    sleep 0.05
  done
}

# The first process of a host, in its new namespaces but still in the farm's file system.
_enter() {
  local root=$state/$1/root pid
  read -r pid _ </proc/self/stat # /proc is still the farm's: so is the number
  echo "$pid" >"$state/$1/pid"
  plug_in "$1"
  hostname "$1"
  mount -t proc proc "$root/proc"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs run "$root/run"
  make_dev "$root/dev"
  case $1 in *head)
    local install=${LAB_INSTALL:-}
    ! option "$1" 1.2.0 || install=${LAB_INSTALL_OLD:-}
    if [ -n "$install" ]; then
      mount --bind "$install" "$root/opt/guix-offload"
      mount -o remount,ro,bind "$root/opt/guix-offload"
    fi
  esac
  mkdir -p "$root/run/old"
  cd "$root"
  pivot_root . run/old
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 lab-host init
}

make_dev() {
  local d=$1 name numbers
  mount -t tmpfs -o mode=755 dev "$d"
  while read -r name numbers; do
    # shellcheck disable=SC2086
    mknod -m 666 "$d/$name" c $numbers
  done <<<$'null 1 3\nzero 1 5\nfull 1 7\nrandom 1 8\nurandom 1 9\ntty 5 0'
  mkdir "$d/pts" "$d/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$d/pts"
  mount -t tmpfs shm "$d/shm"
  ln -s pts/ptmx "$d/ptmx"
  ln -s /proc/self/fd "$d/fd"
  ln -s fd/0 "$d/stdin"; ln -s fd/1 "$d/stdout"; ln -s fd/2 "$d/stderr"
}

sh_() {
  local target; target=$(pid "$1"); shift
  nsenter -t "$target" -m -n -p -u -i \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@" 9>&-
}

kill_host() {
  local target; target=$(pid "$1")
  inside unplug "$1" # first, so that no connection is closed in good order
  kill -KILL "$target"
  while [ -e "/proc/$target" ]; do sleep 0.02; done
}

start() { host_dir "$1" >/dev/null; boot "$1"; wait_for_host "$1" $!; }

## What hosts know of each other

trust_each_other() {
  local name acl
  acl="(acl $(for name in $(host_names); do
    option "$name" stranger || echo "(entry $(cat "$state/$name/root/etc/guix/signing-key.pub") (tag (guix import)))"
  done))"
  for name in $(host_names); do echo "$acl" >"$state/$name/root/etc/guix/acl"; done
}

machines() { # HEAD HOST...
  local head name dir user text; head=$(root "$1"); shift
  text=$(
    echo '(list'
    for name; do
      dir=$(root "$name")
      user=$(sed -n 's/^user=//p' "$dir/etc/lab-options")
      echo " (build-machine (name \"$name\") (systems '(\"$(uname -m)-linux\")) (user \"${user:-root}\")"
      echo "  (host-key \"$(cut -d' ' -f1,2 "$dir/etc/ssh/ssh_host_ed25519_key.pub")\")"
      echo "  (private-key \"/etc/guix/offload_key\") (parallel-builds ${LAB_SLOTS:-2}) (overload-threshold #f)"
      echo "  ${LAB_FIELDS:-})"
    done
    echo ')'
  ) # as a whole or not at all
  echo "$text" >"$head/etc/guix/machines.scm"
}
