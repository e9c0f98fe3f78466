// SPDX-License-Identifier: GPL-3.0-or-later
//! What a head or machine can be like. The undoing leaves it as it was.

use std::io::{Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::daemon::{self, Build, Outcome};
use crate::faults::Undo;
use crate::lab::{Host, lab};
use crate::lane::{Kind, Lane, limit, start_head, start_machine};
use crate::machines::{Machine, quoted};
use crate::random::Random;

fn shell(host: Host, script: &str) {
    host.sh(&["sh", "-ec", script]);
}

/// Where file systems of limited size are on hosts: `SMALL/fill` is what fills one.
const SMALL: &str = "/mnt";

/// Puts the directory `place` with all that is in it on a file system of `mib` MiB. Its daemon is to be started after.
fn shrink(host: Host, place: &str, mib: u32) {
    shell(
        host,
        &format!(
            "pkill -x guix-daemon || true; while pgrep -x guix-daemon >/dev/null; do sleep 0.02; done
             mount -t tmpfs -o size={mib}m small {SMALL}; cp -a {place} {SMALL}/it; mount --bind {SMALL}/it {place}"
        ),
    );
}

/// There must be room for 100 MiB, or no build is given to it.
pub fn small_machine_store(lane: &mut Lane) -> Undo {
    let (head, machine) = (lane.head, lane.machine);
    shrink(machine, "/gnu/store", 110);
    start_machine(machine);
    Undo::with(move || {
        head.kill_keepers(); // whose connection protects what was built meanwhile
        shell(machine, &format!("guix gc >/dev/null 2>&1; umount -l /gnu/store {SMALL}"));
        start_machine(machine);
    })
}

pub fn small_head_store(lane: &mut Lane) -> Undo {
    let head = lane.head;
    daemon::collect_garbage(head);
    shrink(head, "/gnu/store", 64);
    start_head(head);
    Undo::with(move || {
        head.kill_keepers();
        // What was built meanwhile.
        shell(head, &format!("guix gc >/dev/null 2>&1; umount -l /gnu/store {SMALL}"));
        start_head(head);
        daemon::collect_garbage(head);
    })
}

pub fn small_head_database(lane: &mut Lane) -> Undo {
    let head = lane.head;
    shell(head, "pkill -x guix-daemon; while pgrep -x guix-daemon >/dev/null; do sleep 0.02; done");
    // The last to close it leaves no log behind that has room for more.
    let database = Connection::open(head.file("/var/guix/db/db.sqlite")).unwrap();
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(database);
    shrink(head, "/var/guix/db", 16);
    start_head(head);
    Undo::with(move || {
        shell(
            head,
            &format!(
                "pkill -x guix-daemon || true; while pgrep -x guix-daemon >/dev/null; do sleep 0.02; done
                 umount /var/guix/db; rm -rf /var/guix/db/*; cp -a {SMALL}/it/. /var/guix/db; umount {SMALL}"
            ),
        );
        start_head(head);
    })
}

/// Fills the small file system, but for a page or none.
pub fn fill(lane: &Lane, random: &mut Random) -> Undo {
    let small = [lane.machine, lane.head].map(|host| lane.inside(host, SMALL));
    let name = small.iter().find(|place| place.join("it").exists()).expect("a small file system").join("fill");
    let file = std::fs::File::create(&name).unwrap();
    loop {
        let left = fstatvfs(&file).unwrap();
        let free = left.f_bavail * left.f_frsize;
        let take = free.saturating_sub(random.below(8 << 10));
        // Somebody else may have been faster.
        let size = file.metadata().unwrap().len();
        if free < 8 << 10 || fallocate(&file, FallocateFlags::empty(), size, take).is_ok() {
            break;
        }
    }
    Undo::with(move || std::fs::remove_file(name).unwrap())
}

/// Again and again, on both.
pub fn collect_garbage(lane: &mut Lane) -> Undo {
    let stop = Arc::new(AtomicBool::new(false));
    let collectors = [lane.head, lane.machine].map(|host| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                daemon::collect_garbage(host);
            }
        })
    });
    Undo::with(move || {
        stop.store(true, Ordering::Relaxed);
        collectors.into_iter().for_each(|collector| collector.join().expect("collecting garbage"));
    })
}

/// Gives sshd more lines of configuration.
fn configure_sshd(machine: Host, lines: &str) -> Undo {
    let file = machine.file("/etc/ssh/sshd_config.d/a-torture.conf");
    std::fs::write(&file, lines).unwrap();
    machine.reload_sshd();
    Undo::with(move || {
        std::fs::remove_file(file).unwrap();
        machine.reload_sshd();
    })
}

pub fn no_forwarding(lane: &mut Lane) -> Undo {
    configure_sshd(lane.machine, "AllowStreamLocalForwarding no\n")
}

pub fn one_session(lane: &mut Lane) -> Undo {
    configure_sshd(lane.machine, "MaxSessions 1\n")
}

pub fn one_session_only(lane: &mut Lane) -> Undo {
    configure_sshd(lane.machine, "MaxSessions 1\nAllowStreamLocalForwarding no\n")
}

pub fn close_idle(lane: &mut Lane) -> Undo {
    configure_sshd(lane.machine, "ChannelTimeout *=2\n")
}

/// It notices by itself that the network is dead, and ends what was begun.
pub fn noticing(lane: &mut Lane) -> Undo {
    configure_sshd(lane.machine, "ClientAliveInterval 10\nClientAliveCountMax 3\n")
}

/// No SSH packet has to be much larger than that (RFC 4253, section 6.1).
pub fn banner(lane: &mut Lane) -> Undo {
    let (machine, file) = (lane.machine, "/etc/ssh/banner");
    std::fs::write(machine.file(file), "All work and no play.\n".repeat((32 << 10) / 22)).unwrap();
    configure_sshd(machine, &format!("Banner {file}\n"))
}

/// A server may say anything in lines before it says that it speaks SSH (RFC 4253, section 4.2).
pub fn chatter(lane: &mut Lane) -> Undo {
    const LINES: usize = 100_000_000 / 100;
    let machine = lane.machine;
    let target = format!("{}:22", lab(&["address", machine.0]).trim());
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The address of those who are in the farm but on none of its hosts.
    let machine = Machine::of(machine).with("name", quoted("10.88.255.254")).with("port", port.to_string());
    lane.head.write_machines(&[machine]);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, server) = (Arc::clone(&stop), listener.try_clone().unwrap());
    let talker = std::thread::spawn(move || {
        for client in server.incoming().flatten() {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let target = target.clone();
            std::thread::spawn(move || talk(client, &target, LINES));
        }
    });
    Undo::with(move || {
        stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", port)));
        talker.join().unwrap();
    })
}

/// Talks to `client` for so many lines, then has it talk to `target`.
fn talk(mut client: TcpStream, target: &str, lines: usize) {
    let block = format!("{}\r\n", "x".repeat(98)).repeat(1000);
    if (0..lines / 1000).any(|_| client.write_all(block.as_bytes()).is_err()) {
        return;
    }
    let mut server = TcpStream::connect(target).expect("the real sshd");
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Write);
}

/// No limit to the rate.
pub fn fast(lane: &mut Lane) -> Undo {
    let machine = lane.machine;
    lab(&["link", machine.0, "off"]);
    Undo::with(move || limit(machine))
}

/// 100 Mbit/s each way.
pub fn brisk(lane: &mut Lane) -> Undo {
    let machine = lane.machine;
    lab(&["link", machine.0, "rate", "100"]);
    Undo::with(move || limit(machine))
}

/// 1 KiB/s each way, for a machine that has all inputs.
pub fn slow(lane: &mut Lane) -> Undo {
    let first = lane.derivation(Kind::Small);
    assert_eq!(Build::start(lane.head, &first).finish().outcome, Outcome::Succeeded);
    let machine = lane.machine;
    lab(&["link", machine.0, "rate", "0.008"]);
    Undo::with(move || limit(machine))
}

/// An hour behind, for its daemon and for whoever asks it for the time.
pub fn clock_behind(lane: &mut Lane) -> Undo {
    const CLOCK: &str = "
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <sys/time.h>
        #include <time.h>
        int clock_gettime(clockid_t clock, struct timespec *now)
        {
            int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, \"clock_gettime\");
            int result = real(clock, now);
            if (clock == CLOCK_REALTIME) now->tv_sec -= 3600;
            return result;
        }
        int gettimeofday(struct timeval *now, void *zone)
        {
            struct timespec exact;
            (void) zone;
            clock_gettime(CLOCK_REALTIME, &exact);
            now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000;
            return 0;
        }
        time_t time(time_t *now)
        {
            struct timespec exact;
            clock_gettime(CLOCK_REALTIME, &exact);
            if (now) *now = exact.tv_sec;
            return exact.tv_sec;
        }";
    let machine = lane.machine;
    let (source, library) = (machine.file("/srv/clock.c"), machine.file("/srv/clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]).status();
    assert!(compiler.expect("cc").success());
    let date = "#!/bin/sh\nLD_PRELOAD=/srv/clock.so exec /bin/date \"$@\"\n";
    std::fs::write(machine.file("/usr/local/bin/date"), date).unwrap();
    machine.sh(&["chmod", "755", "/usr/local/bin/date"]);
    lab(&["restart-daemon", machine.0, "LD_PRELOAD=/srv/clock.so"]);
    Undo::with(move || {
        machine.sh(&["rm", "/usr/local/bin/date"]);
        start_machine(machine);
    })
}
