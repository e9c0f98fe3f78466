#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# One build, offloaded by the real guix-daemon on the host `head` to the real build machine `w1`, through the hook that
# this project installs. Run it by `make demo`; it runs inside a farm of those two hosts.
set -euo pipefail
lab=$(dirname "$0")/lab
hook=${HOOK-/opt/guix-offload/libexec/guix-offload} # empty: the script that comes with Guix

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
on() { echo "$1# ${*:2}"; "$lab" sh "$@"; }

[ -n "${LAB_INSIDE:-}" ] || { echo "demo.sh runs inside a farm; use: make demo" >&2; exit 1; }

say "Two hosts, each with its own guix-daemon, store and sshd"
on head guix-daemon --version | sed -n '1,2p'
on head cat /etc/guix/machines.scm

say "guix-daemon on head gets its build hook from the variable GUIX"
echo "head# GUIX=$hook guix-daemon --max-jobs=0"
"$lab" restart-daemon head ${hook:+"GUIX=$hook"} -- --max-jobs=0 # it may build nothing itself
[ -z "$hook" ] || on head ls -l "$hook"

say "A derivation with an input of 1 MiB and an output of 4 MiB"
result=$(on head guix repl /usr/local/share/lab/builds.scm -- plain kib=4096 input-kib=1024 2> >(sed 's/^/    /' >&2) |
  tee /dev/stderr)
output=$(sed -n 's/^ok plain-0 //p' <<<"$result")

say "It was built on w1: the log is there, the output on both"
on w1 sh -c 'find /var/log/guix/drvs -name "*plain-0*"' | grep . || { echo "w1 has no log of the build" >&2; exit 1; }
on w1 guix gc --references "$output"
on head guix gc --references "$output"
on head ls -l "$output"

say "The same bytes, and both stores are sound"
there=$("$lab" sh w1 guix hash -r "$output")
here=$("$lab" sh head guix hash -r "$output")
echo "w1:   $there"
echo "head: $here"
[ "$there" = "$here" ] || { echo "the output differs" >&2; exit 1; }
on head guix gc --verify=contents
on w1 guix gc --verify=contents
say "Done: $(sed -n 's/^total 1 //p' <<<"$result") s from request to registered output"
