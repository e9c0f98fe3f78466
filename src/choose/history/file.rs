// SPDX-License-Identifier: GPL-3.0-or-later
//! The file of the history of a machine.
//!
//! ```text
//! load LOAD SECONDS MARK                the last load, normalised by cores, and its time, since the epoch; MARK is the
//!                                       fingerprint of the machine's configuration
//! current LOAD SECONDS                  the load at present, as of SECONDS
//! answered MS                           milliseconds that connecting took, the last time that it worked
//! unanswered COUNT                      how many times in a row another machine answered first
//! setback KIND COUNT SECONDS MARK       it could not be used COUNT times in a row, last at SECONDS; MARK as above
//! reason ERROR TEXT                     why it could not be used
//! hint TEXT                             what the user can do about that
//! address IP                            the address that answered, if the resolver does not return it first
//! slow RATE SECONDS                     at SECONDS the link to it moved at most RATE bytes a second
//! rate RATE SECONDS                     until SECONDS items were sent to it at RATE bytes of nars a second
//! memory IDLE BUILD AVAILABLE SECONDS   bytes available without builds of this host, taken by one, and available at
//!                                       SECONDS
//! took SECONDS MS MS...                 how long the last builds held a slot of it; the last one ended at SECONDS
//! ```

use std::time::Duration;

use super::{BUILDS, History, Load, MemoryUse, Setback, SetbackKind};
use crate::ground::error::{Error, ErrorKind};

/// Longest text that is remembered, in bytes.
pub(super) const MAX_TEXT: usize = 2000;

/// The kinds of setback.
const KIND_WORDS: [(&str, SetbackKind); 4] = [
    ("away", SetbackKind::Away),
    ("no-room", SetbackKind::NoRoom),
    ("misconfigured", SetbackKind::Misconfigured),
    ("this-host", SetbackKind::ThisHost),
];

/// The kinds of error that the file can name. Any other kind becomes `unavailable`.
const ERROR_WORDS: [(&str, ErrorKind); 7] = [
    ("unavailable", ErrorKind::Unavailable),
    ("configuration", ErrorKind::Configuration),
    ("authentication", ErrorKind::Authentication),
    ("host-key", ErrorKind::HostKey),
    ("no-guix", ErrorKind::NoGuix),
    ("untrusted", ErrorKind::Untrusted),
    ("internal", ErrorKind::Internal),
];

impl History {
    /// Reads `text`. Skips lines that are unknown or damaged.
    pub(super) fn parse(text: &str) -> Self {
        let mut history = History::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, &*rest.split(' ').collect::<Vec<_>>()) {
                ("load", [load, at, mark]) => {
                    if let (Ok(load), Ok(at), Ok(mark)) = (load.parse(), at.parse(), mark.parse()) {
                        history.load = Some(Load { load, at, mark }).filter(|seen| seen.load >= 0.0);
                    }
                }
                ("current", [load, at]) => {
                    history.current = load.parse().ok().filter(|load: &f64| *load >= 0.0).zip(at.parse().ok());
                }
                ("answered", [ms]) => history.answered = milliseconds(ms),
                ("unanswered", [count]) => history.unanswered = count.parse().unwrap_or(0),
                ("setback", [kind, count, at, mark]) => {
                    let kind = KIND_WORDS.iter().find(|(word, _)| word == kind);
                    let count = count.parse().ok().filter(|count: &u32| *count > 0);
                    if let (Some((_, kind)), Some(count), Ok(at), Ok(mark)) = (kind, count, at.parse(), mark.parse()) {
                        let reason = Error::new(ErrorKind::Unavailable, "it could not be used");
                        history.setback = Some(Setback { kind: *kind, reason, count, at, mark });
                    }
                }
                ("reason", [kind, ..]) => {
                    let known = ERROR_WORDS.iter().find(|(word, _)| word == kind);
                    let text = rest.split_once(' ').map_or("", |(_, text)| text);
                    if let (Some(setback), Some((_, kind))) = (&mut history.setback, known) {
                        setback.reason = Error::new(*kind, text);
                    }
                }
                ("hint", _) => {
                    if let Some(setback) = &mut history.setback {
                        setback.reason = setback.reason.clone().hint(rest);
                    }
                }
                ("address", [address]) => history.address = address.parse().ok(),
                ("slow", [rate, at]) => {
                    history.slow = rate.parse().ok().filter(|rate: &f64| *rate >= 0.0).zip(at.parse().ok());
                }
                ("rate", [rate, at]) => {
                    history.rate = rate.parse().ok().filter(|rate: &f64| *rate > 0.0).zip(at.parse().ok());
                }
                ("memory", [idle, build, available, at]) => {
                    let numbers = (idle.parse(), build.parse(), available.parse(), at.parse());
                    if let (Ok(idle), Ok(build), Ok(available), Ok(at)) = numbers {
                        history.memory = MemoryUse { idle, build, available, at };
                    }
                }
                ("took", [until, times @ ..]) => {
                    history.took_until = until.parse().unwrap_or(0);
                    history.took = times.iter().take(BUILDS).filter_map(|ms| milliseconds(ms)).collect();
                }
                _ => {}
            }
        }
        history
    }

    /// Returns the text of the file.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |line: String| text.extend([&line, "\n"]);
        if let Some(Load { load, at, mark }) = self.load {
            add(format!("load {load} {at} {mark}"));
        }
        if let Some((load, at)) = self.current {
            add(format!("current {load} {at}"));
        }
        if let Some(answered) = self.answered {
            add(format!("answered {}", answered.as_millis()));
        }
        if self.unanswered > 0 {
            add(format!("unanswered {}", self.unanswered));
        }
        if let Some(Setback { kind, reason, count, at, mark }) = &self.setback {
            let word = KIND_WORDS.iter().find(|(_, known)| known == kind).map_or("", |(word, _)| word);
            add(format!("setback {word} {count} {at} {mark}"));
            let known = ERROR_WORDS.iter().find(|(_, known)| *known == reason.kind());
            add(format!("reason {} {}", known.map_or("unavailable", |(word, _)| word), short(&reason.to_string())));
            if let Some(hint) = reason.hint_text() {
                add(format!("hint {}", short(hint)));
            }
        }
        if let Some(address) = self.address {
            add(format!("address {address}"));
        }
        if let Some((rate, at)) = self.slow {
            add(format!("slow {rate} {at}"));
        }
        if let Some((rate, at)) = self.rate {
            add(format!("rate {rate} {at}"));
        }
        let MemoryUse { idle, build, available, at } = self.memory;
        if available > 0 {
            add(format!("memory {idle} {build} {available} {at}"));
        }
        if !self.took.is_empty() {
            let times: Vec<_> = self.took.iter().map(|time| time.as_millis().to_string()).collect();
            add(format!("took {} {}", self.took_until, times.join(" ")));
        }
        text
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(|ms: u32| Duration::from_millis(ms.into()))
}

/// Returns the beginning of `text` that is remembered.
fn short(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, char)| at + char.len_utf8());
    &text[..ends.take_while(|end| *end <= MAX_TEXT).last().unwrap_or(0)]
}
