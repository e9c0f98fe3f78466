# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2154
# The farm's network: a bridge in the farm's network namespace, with one port, `port-HOST`, a host. Sourced by `lab`.

nth_address() { echo "10.88.0.$1"; }

make_switch() {
  ip link set lo up
  ip link add switch address 02:00:00:00:ff:fe type bridge
  ip addr add 10.88.255.254/16 dev switch # for what runs in the farm but on none of its hosts
  ip link set switch up
}

# Called in the host's network namespace; /proc is still the farm's, and its process 1 is in the farm's.
plug_in() { # HOST
  nsenter --net=/proc/1/ns/net ip link del "port-$1" 2>/dev/null || true # of an earlier life
  local address; address=$(awk -v n="$1" '$2 == n { print $1 }' /etc/hosts)
  # The same hardware address in every life, or peers would ask for the old one for a while.
  ip link add eth0 address "02:00:00:00:00:$(printf %02x "${address##*.}")" \
    type veth peer name "port-$1" netns /proc/1/ns/net
  nsenter --net=/proc/1/ns/net ip link set "port-$1" master switch up
  ip link set lo up
  ip link set eth0 up
  ip addr add "$address/16" dev eth0
}

unplug() { ip link set "port-$1" down; }

# IP packets only: with ARP left alone, peers see silence, not "no route to host".
cut_off() { # HOST on|off
  host_dir "$1" >/dev/null
  [[ $2 = on || $2 = off ]] || die "cut: neither on nor off: $2"
  nft delete table bridge "cut-$1" 2>/dev/null || true
  [ "$2" = on ] || return 0
  nft -f - <<END
table bridge cut-$1 {
  chain from { type filter hook prerouting priority 0; iifname "port-$1" ether type ip drop; }
  chain to { type filter hook postrouting priority 0; oifname "port-$1" ether type ip drop; }
}
END
}

# The delay comes from a wire between the host's port and the switch, the rate from a token bucket at each end of the
# port.
link() { # HOST off | [delay MS] [rate MBIT]
  local host=$1 target delay='' rate='' i; shift
  target=$(pid "$host")
  while [ $# -gt 0 ] && [ "$1" != off ]; do
    case $1 in delay) delay=$2 ;; rate) rate=$2 ;; *) die "link: neither delay, rate nor off: $1" ;; esac
    shift 2
  done
  # Back to a plain link first.
  pkill -f "wire.pl wire-$host-a " || true
  ip link set "port-$host" master switch
  ip link del "wire-$host" 2>/dev/null || true
  tc qdisc del dev "port-$host" root 2>/dev/null || true
  nsenter -t "$target" --net tc qdisc del dev eth0 root 2>/dev/null || true

  if [ -n "$rate" ]; then
    # Below 1 Mbit/s, little may go at once, and a queue of 100 ms would not hold a packet.
    local bucket=(burst 256kb latency 100ms)
    [[ $rate != 0.* ]] || bucket=(burst 2kb limit 64kb)
    tc qdisc add dev "port-$host" root tbf rate "${rate}mbit" "${bucket[@]}"
    nsenter -t "$target" --net tc qdisc add dev eth0 root tbf rate "${rate}mbit" "${bucket[@]}"
  fi
  [ -n "$delay" ] || return 0
  setsid perl "$here/wire.pl" "wire-$host-a" "wire-$host-b" "$delay" </dev/null >"$state/$host/wire.log" 2>&1 9>&- &
  for i in {1..100}; do ip link show "wire-$host-b" >/dev/null 2>&1 && break; sleep 0.02; done
  [ "$i" -lt 100 ] || { cat "$state/$host/wire.log" >&2; die "link: the wire of $host did not start"; }
  ip link add "wire-$host" type bridge
  ip link set "wire-$host-b" master switch up
  ip link set "wire-$host-a" master "wire-$host" up
  ip link set "wire-$host" up
  ip link set "port-$host" master "wire-$host"
}
