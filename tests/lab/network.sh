# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash disable=SC2154
# The farm's network: a bridge in the farm's network namespace, with one port, `port-HOST`, a host. Sourced by `lab`.

nth_address() { echo "10.88.0.$1"; }

make_switch() {
  ip link set lo up
  ip link add switch type bridge
  ip addr add 10.88.255.254/16 dev switch # for what runs in the farm but on none of its hosts
  ip link set switch up
}

# Called in the host's network namespace; /proc is still the farm's, and its process 1 is in the farm's.
plug_in() { # HOST
  nsenter --net=/proc/1/ns/net ip link del "port-$1" 2>/dev/null || true # of an earlier life
  ip link add eth0 type veth peer name "port-$1" netns /proc/1/ns/net
  nsenter --net=/proc/1/ns/net ip link set "port-$1" master switch up
  ip link set lo up
  ip link set eth0 up
  ip addr add "$(awk -v n="$1" '$2 == n { print $1 }' /etc/hosts)/16" dev eth0
}

unplug() { ip link set "port-$1" down; }

# IP packets only: with ARP left alone, peers see silence, not "no route to host".
cut_off() { # HOST on|off
  host_dir "$1" >/dev/null
  nft delete table bridge "cut-$1" 2>/dev/null || true
  [ "$2" = on ] || return 0
  nft -f - <<END
table bridge cut-$1 {
  chain from { type filter hook prerouting priority 0; iifname "port-$1" ether type ip drop; }
  chain to { type filter hook postrouting priority 0; oifname "port-$1" ether type ip drop; }
}
END
}
