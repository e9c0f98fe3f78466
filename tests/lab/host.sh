#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck disable=SC2119,SC2120
# What a host of the lab does itself; it is there as `lab-host`.
#   lab-host init                             its first process: set up, start sshd and guix-daemon, stay
#   lab-host daemon [NAME=VALUE...] [-- ARG...]   start guix-daemon anew with this environment and these arguments
set -euo pipefail

option() { grep -qx "$1" /etc/lab-options; }
socket=/var/guix/daemon-socket/socket

# A signing key as `guix archive --generate-key` makes it, without the second that loading Guix takes.
signing_key() {
  local guile='(use-modules (gcrypt pk-crypto))
    (let ((pair (generate-key (string->canonical-sexp "(genkey (ecdsa (curve Ed25519) (flags rfc6979)))"))))
      (for-each (lambda (name token)
                  (with-output-to-file name
                    (lambda () (display (canonical-sexp->string (find-sexp-token pair token))))))
                (list "/etc/guix/signing-key.pub" "/etc/guix/signing-key.sec")
                (list (quote public-key) (quote private-key))))'
  (umask 077; guile --no-auto-compile -c "$guile")
  chmod 644 /etc/guix/signing-key.pub
}

first_boot() {
  signing_key
  ssh-keygen -q -A &
  cat >/etc/ssh/sshd_config.d/lab.conf <<'END'
MaxStartups 500:30:1000
MaxSessions 500
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
END
  local user home
  user=$(sed -n 's/^user=//p' /etc/lab-options)
  # A password of * , not of ! : sshd lets nobody in whose account is locked.
  [ -z "$user" ] || useradd --create-home --shell /bin/bash --password '*' "$user"
  for user in root $user; do
    home=$(getent passwd "$user" | cut -d: -f6)
    install -d -m 700 -o "$user" "$home/.ssh"
    install -m 600 -o "$user" /etc/lab-authorized-keys "$home/.ssh/authorized_keys"
  done
  if option unprivileged; then
    chown -R guix-daemon:guix-daemon /gnu /var/guix /etc/guix /var/log/guix
    chmod 755 /gnu/store
  else
    chown root:guixbuild /gnu/store
    chown root:root /var/guix
    chmod 1775 /gnu/store
  fi
  wait
}

init() {
  umount -l /run/old
  rmdir /run/old
  mkdir -p /run/sshd
  [ -e /etc/guix/signing-key.sec ] || first_boot
  if option unprivileged; then # as gnu-store.mount of Guix 1.5.0's service does
    mount --bind /gnu/store /gnu/store
    mount -o remount,ro,bind /gnu/store
  fi
  /usr/sbin/sshd -E /var/log/sshd.log 9>&-
  daemon
  touch /var/lib/lab-ready
  exec env --ignore-signal=CHLD sleep infinity # ignoring it reaps the orphans
}

daemon() {
  local environment=() command=(guix-daemon --no-substitutes)
  while [ $# -gt 0 ] && [ "$1" != -- ]; do environment+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  pkill -x guix-daemon || true
  while pgrep -x guix-daemon >/dev/null; do sleep 0.02; done
  rm -f "$socket"
  if option unprivileged; then
    # As the service does: a private mount namespace with the store writable, a user of its own, CAP_CHOWN.
    # shellcheck disable=SC2016
    command=(unshare --mount sh -c 'mount -o remount,rw,bind /gnu/store && exec "$@"' sh
      setpriv --reuid=guix-daemon --regid=guix-daemon --init-groups --inh-caps=+chown --ambient-caps=+chown
      env HOME=/var/empty "${command[@]}")
  else
    command+=(--build-users-group=guixbuild)
  fi
  env "${environment[@]}" setsid "${command[@]}" "$@" </dev/null >>/var/log/guix-daemon.log 2>&1 9>&- &
  local daemon=$!
  until ss -Hxl | grep -q ' \S*/socket '; do
    kill -0 $daemon 2>/dev/null || { tail -n 5 /var/log/guix-daemon.log >&2; echo "lab: guix-daemon did not start" >&2; exit 1; }
    sleep 0.05
  done
}

"$@"
