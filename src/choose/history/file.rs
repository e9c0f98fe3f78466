// SPDX-License-Identifier: GPL-3.0-or-later
//! What is remembered of a machine, as a file.
//!
//! ```text
//! load LOAD SECONDS MARK                at that time (since the epoch) the load, normalised by cores, was that; MARK
//!                                       stands for how the machine was configured
//! answered MS                           connecting to it took so many milliseconds, the last time that it worked
//! unanswered COUNT                      so many times in a row others answered first, and it had not answered by then
//! setback KIND COUNT SECONDS MARK       it could not be used, so many times in a row, the last time then; MARK as
//! reason ERROR TEXT                     above
//! hint TEXT
//! address IP                            this one of its addresses answered, not the one that the resolver has first
//! slow RATE SECONDS                     at that time the link to it moved no more than so many bytes a second
//! took SECONDS MS MS...                 so long the last builds held a slot of it, the last of them until then
//! ```

use std::time::Duration;

use super::{BUILDS, History, Load, Setback, SetbackKind};
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

/// The kinds of error that are remembered as themselves. Of all others it is only remembered that there was one.
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
    /// Reads `text`. Lines that are none of it, or damaged, are left out.
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
                ("took", [until, times @ ..]) => {
                    history.took_until = until.parse().unwrap_or(0);
                    history.took = times.iter().take(BUILDS).filter_map(|ms| milliseconds(ms)).collect();
                }
                _ => {}
            }
        }
        history
    }

    /// The text of it.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |line: String| text.extend([&line, "\n"]);
        if let Some(Load { load, at, mark }) = self.load {
            add(format!("load {load} {at} {mark}"));
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

/// As much of `text` as is remembered.
fn short(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, char)| at + char.len_utf8());
    &text[..ends.take_while(|end| *end <= MAX_TEXT).last().unwrap_or(0)]
}
