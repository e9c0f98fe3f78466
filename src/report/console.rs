// SPDX-License-Identifier: GPL-3.0-or-later
//! Writes lines about a build for a person, or for a program that reads lines. On a terminal a transfer has a bar that
//! is redrawn in place; elsewhere a transfer is one line.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ioctl_fionread};

use crate::ground::error::{Error, ErrorKind, IoContext, Result, line};
use crate::report::said::Said;
use crate::report::{Aside, Event, Observer, lines};

/// Shortest time between two drawings of the progress bar.
const REDRAW: Duration = Duration::from_millis(100);
/// How long a reader of the hook's output may pause before the hook ends with unread output.
const UNREAD_PATIENCE: Duration = Duration::from_secs(10);
/// Width of the progress bar itself, in columns.
const BAR_WIDTH: usize = 30;

/// A writer of messages to one file and of the build's log to another.
pub struct Console {
    messages: File,
    log: File,
    said: Said,
    transfer: Option<Transfer>,
    /// Longest time without a message; `None`: any.
    patience: Option<Duration>,
    spoke: Instant,
    /// Whether waiting was reported: because machines are busy, and because none answers.
    queued: [bool; 2],
}

/// A transfer that is under way, shown on a terminal.
struct Transfer {
    begun: Instant,
    drawn: Option<Instant>,
    total: u64,
}

impl Console {
    /// Takes the files to write to. After `max_silent_time` seconds without a message, guix-daemon kills its hook as a
    /// silent build; 0: it does not.
    pub fn new(messages: File, log: File, max_silent_time: u64) -> Self {
        let patience = (max_silent_time > 0).then(|| Duration::from_secs(max_silent_time) / 3);
        let (said, spoke) = (Said::default(), Instant::now());
        Console { messages, log, said, transfer: None, patience, spoke, queued: [false; 2] }
    }

    /// Returns whether it is time to say something, if only that all is well.
    fn is_overdue(&self) -> bool {
        self.patience.is_some_and(|patience| self.spoke.elapsed() >= patience)
    }

    /// Writes `text` in one piece and as one line, whatever is in it. If nobody reads messages any more, that stops no
    /// build.
    pub fn say(&mut self, text: &str) {
        self.end_transfer();
        self.spoke = Instant::now();
        let _ = self.messages.write_all(format!("{}\n", line(text.to_string())).as_bytes());
    }

    /// Waits until everything that was written is read, nobody reads any more, or nobody has read for
    /// [`UNREAD_PATIENCE`].
    ///
    /// guix-daemon (`Worker::waitForInput` in Guix's `nix/libstore/build.cc`) reads 4 KiB at a time from each of its
    /// hook's two pipes. It treats the end of either as the end of the build, and discards what is left in the other.
    pub fn await_readers(&self) {
        for file in [&self.log, &self.messages] {
            let mut pause = Timespec { tv_sec: 0, tv_nsec: 100_000 };
            let (mut left, mut moved) = (unread(file), Instant::now());
            while left > 0 && moved.elapsed() < UNREAD_PATIENCE {
                // On the writing end of a pipe, poll(2) shows that nobody reads it any more.
                match poll(&mut [PollFd::new(file, PollFlags::empty())], Some(&pause)) {
                    Ok(0) | Err(Errno::INTR) => pause.tv_nsec = (2 * pause.tv_nsec).min(10_000_000),
                    _ => break,
                }
                let before = std::mem::replace(&mut left, unread(file));
                if left < before {
                    moved = Instant::now();
                }
            }
        }
    }

    fn say_all(&mut self, lines: &[String]) {
        lines.iter().for_each(|line| self.say(line));
    }

    /// Reports an error, and what to do about it.
    pub fn error(&mut self, error: &Error) {
        self.say_all(&self.said.of_failure(error));
    }

    /// Reports a problem that is no reason to give up: once, however many requests come.
    pub fn warning(&mut self, error: &Error) {
        if self.said.is_new_warning(error) {
            self.say_all(&lines::of_warning(error));
        }
    }

    fn begin_transfer(&mut self, total: u64) {
        if self.messages.is_terminal() {
            self.transfer = Some(Transfer { begun: Instant::now(), drawn: None, total });
        }
    }

    fn draw(&mut self, bytes: u64) {
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.drawn.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        transfer.drawn = Some(Instant::now());
        let bar = bar(bytes, transfer.total, transfer.begun.elapsed());
        let _ = write!(self.messages, "\r\x1b[K{bar}");
    }

    fn end_transfer(&mut self) {
        if self.transfer.take().is_some_and(|transfer| transfer.drawn.is_some()) {
            let _ = write!(self.messages, "\r\x1b[K");
        }
    }
}

/// Returns how many bytes in this pipe are unread; 0 for a file that is no pipe.
fn unread(file: &File) -> u64 {
    let is_pipe = fstat(file).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo);
    if is_pipe { ioctl_fionread(file).unwrap_or(0) } else { 0 }
}

/// Returns the bar in one state, such as `[#####.....] 50%, 128.0 of 256.0 MiB, 85.3 MiB/s`.
fn bar(bytes: u64, total: u64, elapsed: Duration) -> String {
    let share = if total == 0 { 1.0 } else { (bytes as f64 / total as f64).min(1.0) };
    let full = (share * BAR_WIDTH as f64) as usize;
    let mib = |bytes: f64| bytes / (1 << 20) as f64;
    format!(
        "[{}{}] {:3.0}%, {:.1} of {:.1} MiB, {:.1} MiB/s",
        "#".repeat(full),
        ".".repeat(BAR_WIDTH - full),
        share * 100.0,
        mib(bytes as f64),
        mib(total as f64),
        mib(bytes as f64) / elapsed.as_secs_f64().max(0.001)
    )
}

impl Observer for Console {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::PassedOver { machine, reason } if !self.said.is_due(machine, reason) => return,
            Event::Queued { away } if self.queued[usize::from(away)] && !self.is_overdue() => return,
            Event::Queued { away } => self.queued[usize::from(away)] = true,
            Event::Transferred { bytes } if self.transfer.is_some() || !self.is_overdue() => return self.draw(bytes),
            _ => {}
        }
        let announced = self.transfer.as_ref().map(|transfer| transfer.total);
        self.say_all(&lines::of_event(event));
        match *event {
            Event::Sending { bytes, .. } | Event::Retrieving { bytes, .. } => self.begin_transfer(bytes),
            Event::Fetching { bytes, .. } => self.begin_transfer(announced.unwrap_or(0).saturating_sub(bytes)),
            _ => {}
        }
    }

    fn aside(&self) -> Option<Aside> {
        let messages = self.messages.try_clone().ok()?;
        Some(Arc::new(move |text| {
            let _ = (&messages).write_all(format!("{}\n", line(text.to_string())).as_bytes());
        }))
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.log.write_all(text).io_context(ErrorKind::Cancelled, || "writing the build log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn a_bar_shows_share_amount_and_rate() {
        let half = bar(128 << 20, 256 << 20, Duration::from_secs(2));
        assert_eq!(half, format!("[{}{}]  50%, 128.0 of 256.0 MiB, 64.0 MiB/s", "#".repeat(15), ".".repeat(15)));
        assert!(bar(0, 0, Duration::ZERO).contains("100%"));
        assert!(bar(9, 1, Duration::ZERO).contains("100%"), "headers make a transfer larger than its nars");
    }

    #[test]
    fn a_reason_is_given_once_whatever_the_numbers() {
        let mut file = tempfile::tempfile().unwrap();
        let mut reporter = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
        for (machine, text) in [("a", "load 0.93"), ("a", "load 1.02"), ("b", "load 1.02"), ("b", "wrong key")] {
            let reason = Error::new(ErrorKind::Configuration, text).on_machine(machine).hint("look");
            reporter.event(&Event::PassedOver { machine, reason: &reason });
        }
        reporter.error(&Error::new(ErrorKind::Configuration, "wrong key").on_machine("b").hint("look"));
        let mut said = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut said).unwrap();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("hint: ")).collect();
        assert_eq!(
            lines[..3],
            ["a': load 0.93", "b': load 1.02", "b': wrong key"].map(|l| format!("guix offload: skipping machine '{l}"))
        );
        assert!(lines.len() == 4 && lines[3].starts_with("guix offload: error: no machine"), "{said}");
        assert_eq!(said.matches("hint: look").count(), 3);
    }

    #[test]
    fn what_was_written_is_read_before_the_hook_ends_unless_nobody_reads() {
        let [(messages, messages_in), (log, log_in)] = [(); 2].map(|()| std::io::pipe().unwrap());
        let files = [messages_in, log_in].map(|end| File::from(std::os::fd::OwnedFd::from(end)));
        let [messages_in, log_in] = files;
        let mut console = Console::new(messages_in, log_in, 0);
        console.say("done");
        console.log(&[b'x'; 60_000]).unwrap();
        // Reads as a daemon that is busy does.
        let slow = |mut pipe: std::io::PipeReader, bytes: usize| {
            let mut left = bytes;
            while left > 0 {
                std::thread::sleep(Duration::from_millis(5));
                left -= pipe.read(&mut [0; 4096]).unwrap();
            }
            pipe
        };
        std::thread::scope(|scope| {
            let readers = [scope.spawn(move || slow(log, 60_000)), scope.spawn(move || slow(messages, 5))];
            console.await_readers();
            assert_eq!((unread(&console.log), unread(&console.messages)), (0, 0), "the daemon would throw it away");
            let [log, _messages] = readers.map(|reader| reader.join().unwrap());
            console.log(b"more").unwrap();
            assert_eq!(unread(&console.log), 4);
            drop(log);
            console.await_readers();
        });
    }

    #[test]
    fn a_machine_cannot_reply_in_place_of_the_hook() {
        let mut file = tempfile::tempfile().unwrap();
        let mut reporter = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
        let reason = Error::new(ErrorKind::Daemon, "no\n# accept\n@ build-succeeded x").hint("look\n# decline");
        reporter.event(&Event::PassedOver { machine: "m", reason: &reason });
        reporter.event(&Event::Retrying { machine: "m", reason: &reason });
        reporter.error(&reason);
        reporter.event(&Event::Load { machine: "m\n# decline\n@ build-succeeded x", load: 0.5 });
        let mut said = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut said).unwrap();
        assert_eq!(said.lines().filter(|line| line.starts_with(['#', '@'])).count(), 0, "{said}");
        assert_eq!(said.lines().count(), 7, "{said}");
    }

    #[test]
    fn waiting_is_said_once_and_again_before_it_is_taken_for_silence() {
        let mut file = tempfile::tempfile().unwrap();
        let mut reporter = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 3);
        let said = |file: &mut File| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text.lines().count()
        };
        reporter.event(&Event::Queued { away: false });
        reporter.event(&Event::Queued { away: false });
        reporter.event(&Event::Transferred { bytes: 1 });
        assert_eq!(said(&mut file), 1);
        reporter.spoke -= Duration::from_secs(1);
        reporter.event(&Event::Queued { away: false });
        assert_eq!(said(&mut file), 2);
        reporter.spoke -= Duration::from_secs(1);
        reporter.event(&Event::Transferred { bytes: 1 });
        assert_eq!(said(&mut file), 3);
        // The build waits for another reason now.
        reporter.event(&Event::Queued { away: true });
        assert_eq!(said(&mut file), 4);
    }
}
