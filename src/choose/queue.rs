// SPDX-License-Identifier: GPL-3.0-or-later
//! The queue of the builds of this host that wait for a build slot: first come, first served.
//!
//! It is kept in `STATE/offload/.queue`, for all processes of this host:
//!
//! ```text
//! waiting     a line for each build, oldest first: TICKET NAME:PORT NAME:PORT..., the machines that can do it
//! lock        a process locks byte 0 while it changes `waiting`, and byte TICKET while its build waits
//! ```
//!
//! `waiting` is only ever replaced as a whole, so it is read without a lock. If nobody holds the byte of a line, its
//! build no longer waits, however that ended; the next build that joins removes the line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::choose::slot::lock::{self, Range};
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::state_dir::StateDir;
use crate::machine::BuildMachine;

/// How long to wait while another process changes the queue. Then the build goes on without a place in the queue.
const QUEUE_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest list of the queue that is read, in bytes: larger than any.
const MAX_SIZE: u64 = 16 << 20;

/// The queue, as the builds of one process see it. Any thread.
pub struct Queue {
    directory: StateDir,
    /// The file `lock`: one for all builds of the process, however many wait.
    file: OnceCell<File>,
    /// The builds of this process that wait, by ticket. Its own locks do not show which they are.
    ours: Mutex<BTreeMap<u64, Ours>>,
}

/// A build of this process that waits.
struct Ours {
    machines: Vec<String>,
    /// Wakes the build; `None`: it does not sleep, or was woken.
    sleeping: Option<Cancel>,
    /// Whether the build has a slot, and connects to its machine.
    has_slot: bool,
}

/// A build that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    ticket: u64,
    machines: Vec<String>,
}

impl Waiting {
    /// Returns whether `machine` can do the build.
    pub fn wants(&self, machine: &BuildMachine) -> bool {
        let name = name_of(machine);
        self.machines.contains(&name)
    }
}

/// A place in the queue. Dropping it leaves the queue.
pub struct Place {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut ours = self.queue.ours.lock();
        let left = ours.remove(&self.ticket);
        if let Some(file) = self.queue.file.get() {
            // If this fails, the place becomes free when the process ends. Before another build of this process can get
            // the same ticket: the lock is that of the process.
            let _ = lock::unlock(file, Range::Byte(self.ticket));
        }
        drop(ours);
        if let Some(left) = left {
            self.queue.wake_next(&left.machines);
        }
    }
}

impl Queue {
    /// Returns the queue that is kept in `state` (`STATE/offload`). Opens nothing yet.
    pub fn new(state: &Path) -> Arc<Self> {
        let directory = StateDir::named(state, ".queue");
        Arc::new(Queue { directory, file: OnceCell::new(), ours: Mutex::default() })
    }

    /// Joins the queue at its end, for a build that `machines` can do.
    pub fn join(self: &Arc<Self>, machines: &[BuildMachine]) -> Result<Place> {
        let file = self.file()?;
        let mut ours = self.ours.lock();
        let changing = Changing::begin(file)
            .io_context(ErrorKind::Store, || format!("locking '{}'", self.directory.path("lock").display()))?;
        let mut waiting = self.read();
        waiting.retain(|one| ours.contains_key(&one.ticket) || is_held(file, one.ticket));
        let ticket = waiting.last().map_or(1, |last| last.ticket + 1);
        let machines: Vec<_> = machines.iter().map(name_of).collect();
        waiting.push(Waiting { ticket, machines: machines.clone() });
        let what = || format!("writing '{}'", self.directory.path("waiting").display());
        if !lock::try_lock(file, Range::Byte(ticket)).io_context(ErrorKind::Store, what)? {
            return Err(Error::new(ErrorKind::Store, "a place in the queue of builds that is free is locked"));
        }
        if let Err(error) = self.write(&waiting) {
            let _ = lock::unlock(file, Range::Byte(ticket));
            return Err(error).io_context(ErrorKind::Store, what);
        }
        drop(changing);
        ours.insert(ticket, Ours { machines, sleeping: None, has_slot: false });
        drop(ours);
        Ok(Place { queue: Arc::clone(self), ticket })
    }

    /// Returns the builds that wait for a slot and are ahead of `place`, oldest first; without a place, all of them.
    ///
    /// A queue that cannot be read counts as empty: builds then take slots in any order.
    pub fn ahead_of(&self, place: Option<&Place>) -> Vec<Waiting> {
        let mut waiting = self.read();
        if waiting.is_empty() {
            return waiting;
        }
        let Ok(file) = self.file() else { return Vec::new() };
        waiting.retain(|one| {
            let waits = || match self.ours.lock().get(&one.ticket) {
                Some(ours) => !ours.has_slot,
                None => is_held(file, one.ticket),
            };
            place.is_none_or(|place| one.ticket < place.ticket) && waits()
        });
        waiting
    }

    /// Notes whether the build with `place` has a slot. While it finds out whether it can use that, it waits for no
    /// other one.
    pub fn set_has_slot(&self, place: &Place, has_slot: bool) {
        if let Some(ours) = self.ours.lock().get_mut(&place.ticket) {
            ours.has_slot = has_slot;
        }
    }

    /// Notes that the build with `place` is about to sleep: `cancel` wakes it, once, when it may be its turn. `None`:
    /// the build does not sleep any more. A slot that another process frees wakes no build of this one.
    pub fn set_sleeping(&self, place: &Place, cancel: Option<&Cancel>) {
        if let Some(ours) = self.ours.lock().get_mut(&place.ticket) {
            ours.sleeping = cancel.cloned();
        }
    }

    /// Wakes one sleeping build of this process: of those that one of `machines` can do, the one that has waited
    /// longest.
    pub(super) fn wake_next(&self, machines: &[String]) {
        let mut ours = self.ours.lock();
        let mut sleeping = ours.values_mut().filter(|one| one.sleeping.is_some());
        let next = sleeping.find(|one| one.machines.iter().any(|machine| machines.contains(machine)));
        if let Some(cancel) = next.and_then(|next| next.sleeping.take()) {
            cancel.wake();
        }
    }

    fn file(&self) -> Result<&File> {
        self.file.get_or_try_init(|| {
            let opened = self.directory.create().and_then(|()| self.directory.open());
            opened
                .and_then(|directory| directory.open("lock", OFlags::RDWR | OFlags::CREATE))
                .io_context(ErrorKind::Store, || format!("opening '{}'", self.directory.path("lock").display()))
        })
    }

    fn read(&self) -> Vec<Waiting> {
        let opened = self.directory.open().and_then(|open| open.open("waiting", OFlags::RDONLY | OFlags::NONBLOCK));
        let mut text = String::new();
        match opened.map(|file| file.take(MAX_SIZE).read_to_string(&mut text)) {
            Ok(Ok(_)) => parse(&text),
            _ => Vec::new(),
        }
    }

    fn write(&self, waiting: &[Waiting]) -> std::io::Result<()> {
        let text: String = waiting.iter().map(|one| format!("{} {}\n", one.ticket, one.machines.join(" "))).collect();
        self.directory.open()?.replace("waiting", text.as_bytes())
    }
}

/// The lock for a change of the queue, held until this is dropped.
struct Changing<'a>(&'a File);

impl<'a> Changing<'a> {
    fn begin(file: &'a File) -> std::io::Result<Self> {
        lock::lock_within(file, Range::Byte(0), QUEUE_LOCK_TIMEOUT)?;
        Ok(Changing(file))
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let _ = lock::unlock(self.0, Range::Byte(0));
    }
}

/// Returns whether another process holds this ticket; `false` if the kernel does not say, so that nobody is held up.
fn is_held(file: &File, ticket: u64) -> bool {
    lock::is_locked(file, Range::Byte(ticket)).unwrap_or(false)
}

/// Returns `NAME:PORT`, with `_` for each blank, as blanks separate names.
pub(super) fn name_of(machine: &BuildMachine) -> String {
    format!("{}:{}", machine.name.replace(char::is_whitespace, "_"), machine.port)
}

/// Reads the list. Skips lines of another form, and tickets out of order.
fn parse(text: &str) -> Vec<Waiting> {
    let mut waiting: Vec<Waiting> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let ticket = words.next().and_then(|word| word.parse().ok()).filter(|&ticket| {
            (1..i64::MAX as u64).contains(&ticket) && waiting.last().is_none_or(|last| last.ticket < ticket)
        });
        if let Some(ticket) = ticket {
            waiting.push(Waiting { ticket, machines: words.map(str::to_string).collect() });
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::choose::slot::LockDirectory;
    use crate::choose::taken_slot::TakenSlot;
    use crate::machine::tests::machine;

    fn tickets(waiting: &[Waiting]) -> Vec<u64> {
        waiting.iter().map(|one| one.ticket).collect()
    }

    #[test]
    fn who_came_first_is_first_whichever_process_it_is_of() {
        let state = tempfile::tempdir().unwrap();
        let (one, other) = (Queue::new(state.path()), Queue::new(state.path()));
        assert!(one.ahead_of(None).is_empty());
        let first = one.join(&[machine("a"), machine("b")]).unwrap();
        let second = other.join(&[machine("b")]).unwrap();
        let third = one.join(&[machine("a")]).unwrap();
        assert_eq!(tickets(&one.ahead_of(Some(&third))), [1, 2]);
        assert_eq!(tickets(&other.ahead_of(Some(&second))), [1]);
        assert!(one.ahead_of(Some(&first)).is_empty());
        let all = other.ahead_of(None);
        assert_eq!(tickets(&all), [1, 2, 3]);
        assert!(all[0].wants(&machine("a")) && !all[1].wants(&machine("a")));

        drop(first);
        assert_eq!(tickets(&other.ahead_of(None)), [2, 3]);
        drop(other); // its place keeps it
        assert_eq!(tickets(&one.ahead_of(Some(&third))), [2]);
        drop(second);
        assert!(one.ahead_of(Some(&third)).is_empty());
        let fourth = one.join(&[machine("a")]).unwrap();
        assert_eq!(tickets(&one.ahead_of(Some(&fourth))), [3]);
        let text = std::fs::read_to_string(state.path().join(".queue/waiting")).unwrap();
        assert_eq!(text, "3 a:22\n4 a:22\n", "who joins removes those that have left");
    }

    #[test]
    fn a_slot_that_is_freed_wakes_the_one_build_that_is_next() {
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::new(state.path());
        let lock = || LockDirectory::slots(state.path(), &machine("a")).unwrap().try_take().unwrap().unwrap();
        let slot = TakenSlot::new(lock(), &queue, &machine("a"));
        let builds = ["b", "a", "a", "a"].map(|name| (queue.join(&[machine(name)]).unwrap(), Cancel::default()));
        builds.iter().for_each(|(place, cancel)| queue.set_sleeping(place, Some(cancel)));
        let [_, first, second, third] = &builds;
        let is_woken = |(_, cancel): &(Place, Cancel)| {
            let begun = Instant::now();
            cancel.sleep(Duration::from_millis(20)).unwrap();
            begun.elapsed() < Duration::from_millis(20)
        };
        drop(slot);
        assert_eq!([0, 1, 2, 3].map(|at| is_woken(&builds[at])), [false, true, false, false]);
        // A build that was woken is not woken again, and one that does not sleep is not woken.
        queue.set_sleeping(&second.0, None);
        drop(TakenSlot::new(lock(), &queue, &machine("a")));
        assert_eq!([first, second, third].map(is_woken), [false, false, true]);
        // A build that leaves the queue wakes the next one.
        queue.set_sleeping(&third.0, Some(&third.1));
        let [_, first, _, third] = builds;
        drop(first);
        assert!(is_woken(&third));
    }

    #[test]
    fn hundreds_join_and_leave_at_once() {
        let state = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let queue = Queue::new(state.path());
                    for _ in 0..25 {
                        let place = queue.join(&[machine("m")]).unwrap();
                        let ahead = tickets(&queue.ahead_of(Some(&place)));
                        assert!(ahead.len() < 8 && !ahead.contains(&place.ticket), "{ahead:?}");
                    }
                });
            }
        });
        assert!(Queue::new(state.path()).ahead_of(None).is_empty());
    }

    #[test]
    fn damage_is_an_empty_queue() {
        let state = tempfile::tempdir().unwrap();
        let queue = Queue::new(state.path());
        let place = queue.join(&[machine("m")]).unwrap();
        let file = state.path().join(".queue/waiting");
        for text in ["", "\n", "x m:22\n", "0 m:22\n", "99999999999999999999 m:22\n", "5 m:22\n"] {
            std::fs::write(&file, text).unwrap();
            assert!(queue.ahead_of(None).is_empty(), "{text:?}");
        }
        std::fs::write(&file, b"\xff\xfe").unwrap();
        assert!(queue.ahead_of(None).is_empty());
        drop(place);
        queue.join(&[machine("m")]).unwrap();
    }

    #[test]
    fn a_link_in_place_of_its_files_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join(".queue")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/target", state.path().join(".queue/lock")).unwrap();
        let queue = Queue::new(state.path());
        assert!(queue.join(&[machine("m")]).is_err() && queue.ahead_of(None).is_empty());
    }
}
