// SPDX-License-Identifier: GPL-3.0-or-later
//! The lines about a build that users and tools read, in hooks, jobs and reports.
//!
//! Lines that tools parse are those of `guix offload` to the letter. Each is one line, whatever a machine, a caller or
//! an error says.

use crate::ground::error::{Error, line};
use crate::report::Event;

/// The beginning of most lines, as in Guix.
pub const PREFIX: &str = "guix offload: ";

/// Last line about a build that no machine can do, after the reason was given for each machine.
pub const NONE_IS_USABLE: &str =
    "guix offload: error: no machine that could do the build can be used as it is configured";

/// Returns the lines about `event`; none if another event follows it at once.
pub fn of_event(event: &Event<'_>) -> Vec<String> {
    let lines = match *event {
        Event::SlotTaken { slot } => {
            vec![format!("process {} acquired build slot '{}'", std::process::id(), slot.display())]
        }
        Event::Load { machine, load } => vec![format!("normalized load on machine '{machine}' is {load:.2}")],
        Event::ClockBehind { machine, seconds } => {
            vec![format!("{PREFIX}warning: machine '{machine}' is {seconds} seconds behind")]
        }
        Event::PassedOver { machine, reason } => {
            with_hint(format!("{PREFIX}skipping machine '{machine}': {reason}"), reason)
        }
        Event::BuiltHere { derivation } => {
            vec![format!("{PREFIX}no build machine can be used now; building '{derivation}' here")]
        }
        Event::Queued { .. } | Event::AwaitsSlot { .. } => vec![format!("{PREFIX}{}", wait(event))],
        Event::Sending { machine, items, bytes } => {
            vec![format!("{PREFIX}sending {} to '{machine}'...", amount(items, bytes))]
        }
        Event::Fetching { machine, items, bytes } => {
            vec![format!("{PREFIX}'{machine}' fetches {} of that from its substitute servers...", amount(items, bytes))]
        }
        Event::Building { machine, derivation } => vec![
            format!("offloading '{derivation}' to '{machine}'..."),
            format!("@ build-remote {derivation} {machine}"),
        ],
        Event::Retrieving { machine, items, bytes } => {
            vec![format!("retrieving {} from '{machine}'...", amount(items, bytes))]
        }
        Event::Transferred { bytes } => vec![format!("{PREFIX}{} MiB have moved so far", bytes >> 20)],
        Event::Verified { item } => vec![format!("found valid signature for '{item}'")],
        // No other line has the hint, because the build will be done elsewhere.
        Event::Retrying { machine, reason } => {
            with_hint(format!("{PREFIX}machine '{machine}' failed, trying another one: {reason}"), reason)
        }
        Event::Done { derivation } => vec![format!("done with offloaded '{derivation}'")],
        Event::Chosen { .. } | Event::Built | Event::Received => vec![],
    };
    lines.into_iter().map(line).collect()
}

/// Returns what a build waits for, if `event` says that it waits.
pub fn wait(event: &Event<'_>) -> String {
    match event {
        Event::Queued { away: false } => "all build machines are busy, waiting for a build slot".into(),
        Event::Queued { away: true } => "no build machine can be reached, waiting for one".into(),
        Event::AwaitsSlot { machine } => format!("waiting for a build slot of '{machine}', which has the inputs"),
        _ => String::new(),
    }
}

/// Returns the lines about an error: what is wrong, and what to do about it.
pub fn of_error(error: &Error) -> Vec<String> {
    with_hint(format!("{PREFIX}error: {}", describe(error)), error)
}

/// Returns the lines about an error that is no reason to give up.
pub fn of_warning(error: &Error) -> Vec<String> {
    with_hint(format!("{PREFIX}warning: {}", describe(error)), error)
}

/// Returns the line about a wait of `seconds` in which no byte has come over the connection to `machine`, which is
/// still open.
pub fn of_stall(machine: &str, seconds: u64) -> String {
    line(format!("{PREFIX}no byte has moved for {seconds} s between here and '{machine}'; waiting"))
}

/// Returns the line that says what to do about something.
pub fn hint(text: &str) -> String {
    line(format!("hint: {text}"))
}

/// Returns the message of an error, preceded by the machine unless the message names that.
pub fn describe(error: &Error) -> String {
    let text = error.to_string();
    match error.machine() {
        Some(machine) if !text.contains(&format!("'{machine}'")) => format!("machine '{machine}': {text}"),
        _ => text,
    }
}

/// Returns `lines` as one text, in which each of them ends with a newline.
pub fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn with_hint(text: String, error: &Error) -> Vec<String> {
    [line(text)].into_iter().chain(error.hint_text().map(hint)).collect()
}

/// Returns an amount such as `1 store item (2 MiB)` or `3 store items (0 MiB)`.
fn amount(items: usize, bytes: u64) -> String {
    let plural = if items == 1 { "" } else { "s" };
    format!("{items} store item{plural} ({} MiB)", (bytes as f64 / (1 << 20) as f64).round())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::ground::error::ErrorKind;
    use crate::ground::store_path::{StoreDir, StorePath};

    const NASTY: &str = "m\n# accept\r\n@ build-succeeded x\u{85}\x0b# decline\0";

    /// One event of each kind, about `machine`, `derivation` and `reason`.
    pub fn events<'a>(machine: &'a str, derivation: &'a StorePath, reason: &'a Error) -> Vec<Event<'a>> {
        vec![
            Event::SlotTaken { slot: Path::new(machine) },
            Event::Load { machine, load: 0.5 },
            Event::ClockBehind { machine, seconds: 7 },
            Event::PassedOver { machine, reason },
            Event::BuiltHere { derivation },
            Event::Queued { away: false },
            Event::Queued { away: true },
            Event::AwaitsSlot { machine },
            Event::Chosen { machine },
            Event::Sending { machine, items: 1, bytes: 1 },
            Event::Building { machine, derivation },
            Event::Built,
            Event::Retrieving { machine, items: 1, bytes: 1 },
            Event::Transferred { bytes: 1 },
            Event::Verified { item: derivation },
            Event::Received,
            Event::Retrying { machine, reason },
            Event::Done { derivation },
        ]
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let derivation = store.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
        let reason = Error::new(ErrorKind::Daemon, NASTY).hint(NASTY).on_machine(NASTY);
        let mut lines: Vec<String> = events(NASTY, &derivation, &reason).iter().flat_map(of_event).collect();
        lines.extend([of_error(&reason), of_warning(&reason), vec![of_stall(NASTY, 30), hint(NASTY)]].concat());
        assert_eq!(lines.len(), 24, "{lines:?}");
        for line in &lines {
            assert!(!line.contains(char::is_control) && !line.starts_with('#'), "{line:?}");
            assert!(!line.starts_with('@') || line.starts_with("@ build-remote /gnu/store/"), "{line:?}");
        }
        assert_eq!(text(&lines).lines().count(), lines.len());
    }

    #[test]
    fn a_machine_is_named_once_whatever_its_name() {
        let named = |text: &str| describe(&Error::new(ErrorKind::Unavailable, text).on_machine("in"));
        assert_eq!(named("lost in space"), "machine 'in': lost in space");
        assert_eq!(named("cannot connect to 'in'"), "cannot connect to 'in'");
        assert_eq!(describe(&Error::new(ErrorKind::Store, "full")), "full");
    }

    #[test]
    fn amounts_are_in_mebibytes() {
        assert_eq!(amount(1, 0), "1 store item (0 MiB)");
        assert_eq!(amount(2, 3 << 20), "2 store items (3 MiB)");
    }
}
