#!/usr/bin/perl
# SPDX-License-Identifier: GPL-3.0-or-later
# A long wire: wire.pl IFACE IFACE MS makes two TAP interfaces; what is sent into one comes out of the other MS
# milliseconds later. (The kernel's own netem is not in every kernel.) Frames keep their virtio-net header, so segments
# of up to 64 KiB pass as one and the wire is not the bottleneck.
use strict;
use warnings;
use Fcntl;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant { TUNSETIFF => 0x400454ca, TUNSETOFFLOAD => 0x400454d0 };
use constant { IFF_TAP => 0x0002, IFF_NO_PI => 0x1000, IFF_VNET_HDR => 0x4000 };
use constant { OFFLOADS => 0x1 | 0x2 | 0x4 };    # checksums, TSO over IPv4 and IPv6
use constant { FRAME => 10 + 14 + 65536, QUEUED => 64 * 1024 * 1024 };

my ($left, $right, $ms) = @ARGV;
my @ends = map { end($_) } $left, $right;
my @queue = ([], []);      # of [due, frame], towards each end
my @queued = (0, 0);       # bytes in each

while (1) {
    my $now = clock_gettime(CLOCK_MONOTONIC);
    my $wait;
    for my $to (0, 1) {
        my $queue = $queue[$to];
        while (@$queue and $queue->[0][0] <= $now) {
            my $frame = shift(@$queue)->[1];
            $queued[$to] -= length $frame;
            syswrite $ends[$to], $frame;         # a lost frame is TCP's business
        }
        my $due = @$queue ? $queue->[0][0] - $now : next;
        $wait = $due if !defined $wait or $due < $wait;
    }
    my $readable = '';
    vec($readable, fileno $_, 1) = 1 for @ends;
    select($readable, undef, undef, $wait);
    $now = clock_gettime(CLOCK_MONOTONIC);
    for my $from (0, 1) {
        my $to = 1 - $from;
        for (1 .. 64) {                          # then the other direction gets its turn
            my $length = sysread $ends[$from], my $frame, FRAME;
            last unless $length;
            next if $queued[$to] + $length > QUEUED;
            $queued[$to] += $length;
            push @{ $queue[$to] }, [ $now + $ms / 1000, $frame ];
        }
    }
}

sub end {
    my ($name) = @_;
    sysopen my $tap, '/dev/net/tun', O_RDWR | O_NONBLOCK or die "wire: cannot open /dev/net/tun: $!\n";
    ioctl $tap, TUNSETIFF, pack('a16 S x22', $name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        or die "wire: cannot make $name: $!\n";
    ioctl $tap, TUNSETOFFLOAD, OFFLOADS or die "wire: cannot set the offloads of $name: $!\n";
    return $tap;
}
