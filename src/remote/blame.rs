// SPDX-License-Identifier: GPL-3.0-or-later
//! Whose fault a failed build is: its own, or the machine's. In the second case, another machine may succeed.
//!
//! The status that the daemon there returns decides most cases (`DerivationGoal::buildDone` in Guix's
//! `nix/libstore/build.cc`). It is 100 for a failure that the daemon would cache, and 1 for others: a derivation with
//! fixed output, a rejected output, a full disk, or trouble of its own, such as a build hook of its own that failed.
//! For the rest, this module asks the machine how much space and memory are left, and whether its kernel has killed
//! for lack of memory.

use super::Remote;
use super::shell::{self, KILLS, MEMORY, free_space};
use crate::daemon;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::store;

/// Size of the end of a log that is kept, in bytes: the daemon's own message about a failure comes last.
const TAIL: usize = 4 << 10;

/// Free space, in bytes, below which the disk counts as the cause of a failed build, as for `guix offload`.
const FULL: u64 = 10 << 20;

/// Available memory, in bytes, below which its lack counts as the cause of a killed builder.
const STARVED: u64 = 128 << 20;

/// Messages of the daemon about outputs that it rejects. Such a build would not succeed elsewhere.
const REJECTIONS: [&str; 6] = [
    "failed to produce output path",
    "is not allowed to refer to path",
    "should be a non-executable regular file",
    "rejecting this build output",
    "contains an invalid reference specifier",
    "hash mismatch for ",
];

/// Message of the daemon if it found a disk nearly full: that of the store, or of the directory in which it builds.
const NO_SPACE: &str = "may have been caused by lack of free disk space";

/// Message of the daemon about a builder that SIGKILL ended.
const KILLED: &str = "failed due to signal 9";

/// The end of a log.
#[derive(Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// Notes the next piece of the log.
    pub fn note(&mut self, text: &[u8]) {
        self.0.extend_from_slice(&text[text.len().saturating_sub(TAIL)..]);
        if self.0.len() > 2 * TAIL {
            self.0.drain(..self.0.len() - TAIL);
        }
    }

    fn says(&self, words: &str) -> bool {
        self.0.windows(words.len()).any(|window| window == words.as_bytes())
    }
}

/// Finds out why `derivation` failed on `remote` with `error`, and returns the error to report. `tail` is the end of
/// the log.
pub fn find(error: Error, derivation: &StorePath, tail: &Tail, remote: &Remote) -> Error {
    let name = &remote.machine.name;
    let because = |why: &str| {
        let message = format!("{error}; that may have been caused by {why} on '{name}'");
        Error::new(ErrorKind::Unavailable, message)
    };
    let untried = error.kind() == ErrorKind::Daemon && is_about_builds(&error);
    if error.kind() != ErrorKind::BuildFailed && !untried {
        return error;
    }
    if tail.says(NO_SPACE) {
        return because("lack of free disk space");
    }
    // A machine that cannot be asked any more is not blamed.
    let state = ask(remote).unwrap_or_default();
    let full = |free: Option<u64>| free.is_some_and(|free| free < FULL);
    if full(state.store) || full(state.build) {
        return because("lack of free disk space");
    }
    let more_killed = remote.kills.zip(state.kills).is_some_and(|(before, now)| now > before);
    if tail.says(KILLED) && (more_killed || state.memory.is_some_and(|memory| memory < STARVED)) {
        return because("lack of memory")
            .hint(format!("give '{name}' more memory or swap space, or fewer builds at a time (parallel-builds)"));
    }
    if untried && (REJECTIONS.iter().any(|words| tail.says(words)) || is_fixed(derivation)) {
        return Error::new(ErrorKind::BuildFailed, error.to_string());
    }
    error
}

/// Returns `error`. Explains it if the daemon of the machine `name` found its `store` damaged: the daemon would answer
/// the same again and again. If the daemon ended the connection, adds a hint: only the daemon's log says why.
pub fn explain(error: Error, name: &str, store: &StoreDir) -> Error {
    let text = error.to_string();
    if error.kind() == ErrorKind::Unavailable && text.contains(daemon::CLOSED) {
        return error.hint(format!(
            "if this comes again, see what guix-daemon on '{name}' logs, and whether it still has the 'guix' that it \
             runs to sign"
        ));
    }
    let damaged =
        [&format!("getting attributes of path `{}/", store.as_str()), "hash of path `", "in phase mountIntoChroot: "];
    if error.kind() != ErrorKind::Daemon || !damaged.iter().any(|words| text.contains(words)) {
        return error;
    }
    Error::new(
        ErrorKind::Daemon,
        format!("the store of '{name}' is damaged, which has not what its database says: {text}"),
    )
    .hint(format!("on '{name}', as root: guix gc --verify=contents,repair"))
}

/// Returns whether the daemon says in `error` that builds failed, not that it could not begin.
fn is_about_builds(error: &Error) -> bool {
    let text = error.to_string();
    text.starts_with("build of ") && text.ends_with(" failed")
}

fn is_fixed(derivation: &StorePath) -> bool {
    store::text_of(derivation).is_ok_and(|text| store::has_fixed_output(&text))
}

/// The state of a machine after a build failed, in bytes; `None` if it does not say.
#[derive(Debug, Default, PartialEq)]
struct State {
    /// Free space where the store is.
    store: Option<u64>,
    /// Free space where the daemon builds.
    build: Option<u64>,
    /// Available memory.
    memory: Option<u64>,
    /// How many processes the kernel has killed for lack of memory since it started.
    kills: Option<u64>,
}

/// Asks `remote` for its state. Only root can see in which directory the daemon builds, unless it is the usual one.
fn ask(remote: &Remote) -> Result<State> {
    let program = format!(
        "directory=/tmp\n\
         for process in /proc/[0-9]*; do\n\
           read -r name 2>/dev/null <$process/comm && [ \"$name\" = guix-daemon ] || continue\n\
           found=$(tr '\\0' '\\n' 2>/dev/null <$process/environ | sed -n 's/^TMPDIR=//p')\n\
           [ -z \"$found\" ] || directory=$found\n\
         done\n\
         df -P -k \"$directory\" | tail -n 1 | {{ read -r fs size used free rest; echo build $free; }}\n\
         {store}{MEMORY}{KILLS}",
        store = free_space(&remote.store, "store"),
    );
    let mut channel = shell::start(&remote.session, &program);
    Ok(State::parse(&shell::answer(&mut channel, remote.limits.step, "asking why a build failed")?))
}

impl State {
    fn parse(text: &str) -> Self {
        let number = |word: &str| shell::value(text, word).and_then(|value| value.parse::<u64>().ok());
        let kib = |word: &str| number(word).map(|kib| kib.saturating_mul(1024));
        State { store: kib("store"), build: kib("build"), memory: kib("memory"), kills: number("kills") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let state = State::parse("build 2\nstore 1\nmemory 3\nkills 4\n");
        let expected = State { store: Some(1024), build: Some(2048), memory: Some(3072), kills: Some(4) };
        assert_eq!(state, expected);
        assert_eq!(State::parse("build \nstore lots\nkills -1\n"), State::default());
    }

    #[test]
    fn a_damaged_store_is_called_that() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let explained = |text: &str| explain(Error::new(ErrorKind::Daemon, text), "w1", &store);
        for text in [
            "getting attributes of path `/gnu/store/x-a': No such file or directory",
            "hash of path `/gnu/store/x-a' has changed from `1' to `2'!",
            "in phase mountIntoChroot: file `/gnu/store/x-a' has an unsupported type",
        ] {
            let error = explained(text);
            assert!(error.to_string().contains("store of 'w1'") && error.to_string().ends_with(text), "{error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--verify=contents,repair")), "{error}");
        }
        let closed = explain(Error::new(ErrorKind::Unavailable, daemon::CLOSED), "w1", &store);
        assert!(closed.hint_text().is_some_and(|hint| hint.contains("guix-daemon on 'w1' logs")), "{closed:?}");
        for text in ["getting attributes of path `/etc/guix/signing-key.sec'", "path `/gnu/store/x-a' is not valid"] {
            assert_eq!(explained(text).to_string(), text);
        }
    }

    #[test]
    fn the_end_of_a_log_is_kept_whatever_it_comes_in() {
        for piece in [1, 7, 5000, 100_000] {
            let log = [b"x".repeat(10_000), b"note: ".to_vec(), NO_SPACE.into(), b"\nthe end\n".to_vec()].concat();
            let mut tail = Tail::default();
            log.chunks(piece).for_each(|text| tail.note(text));
            assert!(tail.says(NO_SPACE) && !tail.says(KILLED) && tail.0.len() <= 2 * TAIL, "{piece}");
        }
    }
}
