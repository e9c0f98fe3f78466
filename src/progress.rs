// SPDX-License-Identifier: GPL-3.0-or-later
//! Telling a person, or a program that reads lines, how a build is getting on.
//!
//! Lines that tools parse are those of `guix offload` to the letter. On a terminal a transfer has a bar that is redrawn in place;
//! elsewhere a transfer is one line.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, IoContext, Result, line};
use crate::observer::{Aside, Event, Observer};
use crate::said::Said;

/// How often the bar is redrawn at most.
const REDRAW: Duration = Duration::from_millis(100);
/// Width of the bar itself, in columns.
const BAR_WIDTH: usize = 30;

/// Writes messages to one file and the build's log to another.
pub struct Reporter {
    messages: File,
    log: File,
    said: Said,
    transfer: Option<Transfer>,
    /// After how long without a message there has to be another one.
    patience: Option<Duration>,
    spoke: Instant,
    queued: bool,
}

/// A transfer that is under way, shown on a terminal.
struct Transfer {
    begun: Instant,
    drawn: Option<Instant>,
    total: u64,
}

impl Reporter {
    /// Takes the files to write to, and after how many seconds without a message guix-daemon kills its hook, because
    /// it takes it for a silent build; 0: it does not.
    pub fn new(messages: File, log: File, max_silent_time: u64) -> Self {
        let patience = (max_silent_time > 0).then(|| Duration::from_secs(max_silent_time) / 3);
        let (said, spoke) = (Said::default(), Instant::now());
        Reporter { messages, log, said, transfer: None, patience, spoke, queued: false }
    }

    /// Is it time to say something, if only that all is well?
    fn is_overdue(&self) -> bool {
        self.patience.is_some_and(|patience| self.spoke.elapsed() >= patience)
    }

    /// Writes `text`, whatever is in it as one line, and in one piece. Whoever reads messages may be gone: that stops no build.
    pub fn say(&mut self, text: &str) {
        self.end_transfer();
        self.spoke = Instant::now();
        let _ = self.messages.write_all(format!("{}\n", line(text.to_string())).as_bytes());
    }

    /// Reports an error, and what to do about it.
    pub fn error(&mut self, error: &Error) {
        if error.kind().is_misconfiguration()
            && error.machine().is_some_and(|machine| self.said.contains(machine, error))
        {
            self.say("guix offload: error: no machine that could do the build can be used as it is configured");
            return;
        }
        self.say(&format!("guix offload: error: {}", describe(error)));
        if let Some(hint) = error.hint_text() {
            self.say(&format!("hint: {hint}"));
        }
    }

    /// Says what is wrong with something that is no reason to give up: once, however many requests come.
    pub fn warning(&mut self, error: &Error) {
        if self.said.is_new_warning(error) {
            self.say(&format!("guix offload: warning: {}", describe(error)));
            if let Some(hint) = error.hint_text() {
                self.say(&format!("hint: {hint}"));
            }
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

/// Where it happened, if the message does not say, and the message.
fn describe(error: &Error) -> String {
    let text = error.to_string();
    match error.machine() {
        Some(machine) if !text.contains(machine) => format!("machine '{machine}': {text}"),
        _ => text,
    }
}

/// One state of the bar, such as `[#####.....] 50%, 128.0 of 256.0 MiB, 85.3 MiB/s`.
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

/// `1 store item (2 MiB)`, `3 store items (0 MiB)`.
fn amount(items: usize, bytes: u64) -> String {
    let plural = if items == 1 { "" } else { "s" };
    format!("{items} store item{plural} ({} MiB)", (bytes as f64 / (1 << 20) as f64).round())
}

impl Observer for Reporter {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::SlotTaken { slot } => {
                self.say(&format!("process {} acquired build slot '{}'", std::process::id(), slot.display()));
            }
            Event::Load { machine, load } => {
                self.say(&format!("normalized load on machine '{machine}' is {load:.2}"));
            }
            Event::ClockBehind { machine, seconds } => {
                self.say(&format!("guix offload: warning: machine '{machine}' is {seconds} seconds behind"));
            }
            Event::PassedOver { machine, reason } => {
                let line = format!("guix offload: skipping machine '{machine}': {reason}");
                if self.said.is_due(machine, reason) {
                    self.say(&line);
                    if let Some(hint) = reason.hint_text() {
                        self.say(&format!("hint: {hint}"));
                    }
                }
            }
            Event::BuiltHere { derivation } => {
                self.say(&format!("guix offload: no build machine can be used now; building '{derivation}' here"));
            }
            Event::Queued if self.queued && !self.is_overdue() => {}
            Event::Queued => {
                self.queued = true;
                self.say("guix offload: all build machines are busy, waiting for a build slot");
            }
            Event::Sending { machine, items, bytes } => {
                self.say(&format!("guix offload: sending {} to '{machine}'...", amount(items, bytes)));
                self.begin_transfer(bytes);
            }
            Event::Building { machine, derivation } => {
                self.say(&format!("offloading '{derivation}' to '{machine}'..."));
                self.say(&format!("@ build-remote {derivation} {machine}"));
            }
            Event::Retrieving { machine, items, bytes } => {
                self.say(&format!("retrieving {} from '{machine}'...", amount(items, bytes)));
                self.begin_transfer(bytes);
            }
            // Said by the event that follows.
            Event::Chosen { .. } | Event::Built | Event::Received => {}
            Event::Transferred { bytes } if self.transfer.is_none() && self.is_overdue() => {
                self.say(&format!("guix offload: {} MiB have moved so far", bytes >> 20));
            }
            Event::Transferred { bytes } => self.draw(bytes),
            Event::Verified { item } => self.say(&format!("found valid signature for '{item}'")),
            Event::Retrying { machine, reason } => {
                self.say(&format!("guix offload: machine '{machine}' failed, trying another one: {reason}"));
                // Nobody else says what is to be done: the build will be done elsewhere.
                if let Some(hint) = reason.hint_text() {
                    self.say(&format!("hint: {hint}"));
                }
            }
            Event::Done { derivation } => self.say(&format!("done with offloaded '{derivation}'")),
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
        let mut reporter = Reporter::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
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
    fn a_machine_cannot_reply_in_place_of_the_hook() {
        let mut file = tempfile::tempfile().unwrap();
        let mut reporter = Reporter::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
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
        let mut reporter = Reporter::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 3);
        let said = |file: &mut File| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text.lines().count()
        };
        reporter.event(&Event::Queued);
        reporter.event(&Event::Queued);
        reporter.event(&Event::Transferred { bytes: 1 });
        assert_eq!(said(&mut file), 1);
        reporter.spoke -= Duration::from_secs(1);
        reporter.event(&Event::Queued);
        assert_eq!(said(&mut file), 2);
        reporter.spoke -= Duration::from_secs(1);
        reporter.event(&Event::Transferred { bytes: 1 });
        assert_eq!(said(&mut file), 3);
    }

    #[test]
    fn amounts_are_in_mebibytes() {
        assert_eq!(amount(1, 0), "1 store item (0 MiB)");
        assert_eq!(amount(2, 3 << 20), "2 store items (3 MiB)");
    }
}
