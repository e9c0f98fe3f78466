// SPDX-License-Identifier: GPL-3.0-or-later
//! The one error type of the crate.
//!
//! An [`Error`] says what went wrong ([`ErrorKind`] and a message), where (the machine, and a chain of contexts from
//! the outside in), and what the user can do about it (the hint). Its kind decides its [`Class`], which tells
//! guix-daemon whether the build may be tried again.
//!
//! Each text is a single line without control characters. It may contain words of a machine. These must not reach a
//! terminal as commands, nor guix-daemon as a line of their own, which could be a reply of its hook.

use std::any::Any;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// An argument, a request line or a store file name is malformed.
    InvalidArgument,
    /// The machine file, or a file that it names (a private key), is missing, unreadable or wrong; or the machine's SSH
    /// server or account is set up so that it cannot be used.
    Configuration,
    /// A machine cannot be reached, went away, or lacks what a build machine needs.
    Unavailable,
    /// The machine rejects our user key.
    Authentication,
    /// The machine's host key is not the pinned one.
    HostKey,
    /// The machine accepts our login, but has no Guix, or a Guix that is not running.
    NoGuix,
    /// The other side broke a protocol or a format: a frame, an archive.
    Protocol,
    /// An archive is unsigned, signed by a key that the ACL does not list, or is not what was asked for.
    Untrusted,
    /// The other daemon refused a request.
    Daemon,
    /// A machine's garbage collector deleted what a build needs there, and did so again after that was sent anew.
    Collected,
    /// The local store, its database or its file system failed.
    Store,
    /// The builder failed: trying again would fail again.
    BuildFailed,
    /// The build ran longer, or was silent longer, than allowed.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
    /// The process ran out of descriptors, threads or memory, or the queue is full.
    Exhausted,
    /// A defect of this library, such as a caught panic.
    Internal,
}

/// The consequence of a failure for the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not the build's fault; it may be tried again.
    Transient,
    /// The build itself failed.
    Permanent,
    /// The build exceeded a time limit.
    Timeout,
}

/// The party that has to change for a failure not to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The machine: the build may succeed on another one.
    Machine,
    /// This host, or its description of the machine: no other machine would do better.
    Host,
    /// The build itself.
    Build,
    /// The caller.
    Caller,
}

impl ErrorKind {
    /// Returns who is to blame.
    pub fn blame(self) -> Blame {
        match self {
            ErrorKind::Unavailable
            | ErrorKind::Authentication
            | ErrorKind::HostKey
            | ErrorKind::NoGuix
            | ErrorKind::Protocol
            | ErrorKind::Untrusted
            | ErrorKind::Daemon
            | ErrorKind::Collected => Blame::Machine,
            ErrorKind::Configuration | ErrorKind::Store | ErrorKind::Exhausted | ErrorKind::Internal => Blame::Host,
            ErrorKind::BuildFailed | ErrorKind::TimedOut => Blame::Build,
            ErrorKind::InvalidArgument | ErrorKind::Cancelled => Blame::Caller,
        }
    }

    /// Returns whether the error means that a machine is misconfigured: the error stays until somebody corrects that,
    /// so waiting does not help.
    pub fn is_misconfiguration(self) -> bool {
        use ErrorKind::*;
        matches!(self, Configuration | Authentication | HostKey | NoGuix)
    }

    /// Returns the class of this kind of error.
    pub fn class(self) -> Class {
        match self {
            ErrorKind::BuildFailed => Class::Permanent,
            ErrorKind::TimedOut => Class::Timeout,
            _ => Class::Transient,
        }
    }
}

impl Class {
    /// Returns the exit status with which a build hook reports this class to guix-daemon (`DerivationGoal::buildDone`
    /// in Guix's `nix/libstore/build.cc`).
    pub fn exit_status(self) -> u8 {
        match self {
            Class::Transient => 1,
            Class::Permanent => 100,
            Class::Timeout => 101,
        }
    }
}

/// An error of this library. Cheap to move; the details are boxed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Details {
    kind: ErrorKind,
    message: String,
    /// Innermost first.
    contexts: Vec<String>,
    machine: Option<String>,
    hint: Option<String>,
}

impl Error {
    /// Makes an error of `kind`. The message is a clause without a final full stop that names what and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = line(message.into());
        Error(Box::new(Details { kind, message, contexts: Vec::new(), machine: None, hint: None }))
    }

    /// Makes an error of `kind` from a failed system call. `what` says what was tried, and on what. If the process
    /// lacks descriptors or memory, the kind is [`ErrorKind::Exhausted`] whatever was tried.
    ///
    /// If `error` carries an [`Error`] of ours, as the errors of the streams of [`crate::ssh`] do, that one stays the
    /// cause.
    pub fn io(kind: ErrorKind, what: impl fmt::Display, error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(ours) => ours.context(what.to_string()),
            Err(error) => {
                let exhausted = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
                Error::new(if exhausted { ErrorKind::Exhausted } else { kind }, format!("{what}: {}", in_words(&error)))
            }
        }
    }

    /// Makes an error from a caught panic.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        let message = format!("defect in libguix_offload: {}", text.unwrap_or("a panic without a message"));
        Error::new(ErrorKind::Internal, message).hint("report this message to the authors of the library")
    }

    /// Adds what was being done, outside the contexts that the error has.
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.0.contexts.push(line(context.into()));
        self
    }

    /// Sets what the user can do about the error: a sentence, or a command to run. An inner hint is kept.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| line(hint.into()));
        self
    }

    /// Adds to the hint what holds until the user follows it.
    pub fn until_then(mut self, consequence: &str) -> Self {
        let first = self.0.hint.take().unwrap_or_else(|| "correct it".into());
        self.0.hint = Some(line(format!("{first}; until then, {consequence}")));
        self
    }

    /// Sets the machine with which the error happened. An inner one is kept.
    pub fn on_machine(mut self, name: impl Into<String>) -> Self {
        self.0.machine.get_or_insert_with(|| line(name.into()));
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the consequence for the build.
    pub fn class(&self) -> Class {
        self.0.kind.class()
    }

    /// Returns whether the build might succeed on another machine.
    pub fn is_machines_fault(&self) -> bool {
        self.0.kind.blame() == Blame::Machine
    }

    /// Sets the machine to `name`, if the machine is to blame.
    pub fn blame_machine(self, name: &str) -> Self {
        if self.is_machines_fault() { self.on_machine(name) } else { self }
    }

    /// Returns the name of the machine with which the error happened, if there is one.
    pub fn machine(&self) -> Option<&str> {
        self.0.machine.as_deref()
    }

    /// Returns the hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

/// Returns the system's text for `error`, without the number that Rust adds.
pub fn in_words(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(number) = error.raw_os_error() {
        text.truncate(text.strip_suffix(&format!(" (os error {number})")).map_or(text.len(), str::len));
    }
    text
}

/// Returns `text` with each control character replaced by a space.
pub fn line(mut text: String) -> String {
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

/// Contexts from the outside in, then the message: `machine 'x': sending files: connection lost`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.0.contexts.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// For streams whose `Read` and `Write` must fail with `io::Error`: [`Error::io`] finds our error again inside.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// Adds context to a failed `Result`.
pub trait Context<T> {
    /// Adds what was being done, if it failed.
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| e.context(context()))
    }
}

/// Turns a failed system call into an [`Error`].
pub trait IoContext<T> {
    /// Makes the error as [`Error::io`] does.
    fn io_context<D: fmt::Display>(self, kind: ErrorKind, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn io_context<D: fmt::Display>(self, kind: ErrorKind, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::io(kind, what(), e.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn display_goes_from_the_outside_in() {
        let error =
            Error::new(ErrorKind::Unavailable, "connection lost").context("sending files").context("machine 'x'");
        assert_eq!(error.to_string(), "machine 'x': sending files: connection lost");
    }

    #[test]
    fn a_text_is_one_line_whatever_is_in_it() {
        let nasty = "a\n# accept\r\x1b[2J\u{9b}b";
        let error = Error::new(ErrorKind::Daemon, nasty).context(nasty).hint(nasty).on_machine(nasty);
        let clean = "a # accept  [2J b";
        assert_eq!(error.to_string(), format!("{clean}: {clean}"));
        assert_eq!((error.hint_text(), error.machine()), (Some(clean), Some(clean)));
    }

    #[test]
    fn our_error_survives_a_trip_through_io_error() {
        let inner = Error::new(ErrorKind::Authentication, "host key differs").hint("check it");
        let outer = Error::io(ErrorKind::Protocol, "reading a frame", io::Error::from(inner));
        assert_eq!(outer.kind(), ErrorKind::Authentication);
        assert_eq!(outer.to_string(), "reading a frame: host key differs");
        assert_eq!(outer.hint_text(), Some("check it"));
    }

    #[test]
    fn a_failed_system_call_is_said_without_its_number() {
        let error = Error::io(ErrorKind::Store, "opening 'x'", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.to_string(), "opening 'x': Permission denied");
        assert_eq!(in_words(&io::Error::other("it is odd (os error 3)")), "it is odd (os error 3)");
    }

    #[test]
    fn being_out_of_descriptors_is_not_the_fault_of_what_was_tried() {
        let error = Error::io(ErrorKind::Store, "opening 'x'", io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let error = Error::io(ErrorKind::Store, "opening 'x'", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.kind(), ErrorKind::Store);
    }

    #[test]
    fn each_kind_of_error_has_somebody_to_blame() {
        use ErrorKind::*;
        let by_whom = [
            (
                Blame::Machine,
                &[Unavailable, Authentication, HostKey, NoGuix, Protocol, Untrusted, Daemon, Collected][..],
            ),
            (Blame::Host, &[Configuration, Store, Exhausted, Internal]),
            (Blame::Build, &[BuildFailed, TimedOut]),
            (Blame::Caller, &[InvalidArgument, Cancelled]),
        ];
        let mut seen = HashSet::new();
        for (blame, kinds) in by_whom {
            for &kind in kinds {
                assert!(seen.insert(kind), "{kind:?} twice");
                assert_eq!(kind.blame(), blame, "{kind:?}");
                let error = Error::new(kind, "it failed").blame_machine("m");
                assert_eq!(error.machine().is_some(), blame == Blame::Machine, "{kind:?}");
                // A failure that another machine may not have is no reason to give a build up for good.
                assert!(!error.is_machines_fault() || kind.class() == Class::Transient, "{kind:?}");
                assert_eq!(kind.class() == Class::Transient, blame != Blame::Build, "{kind:?}");
                // Only a machine, or this host's description of it, can be misconfigured.
                assert!(!kind.is_misconfiguration() || matches!(blame, Blame::Machine | Blame::Host), "{kind:?}");
            }
        }
        assert_eq!(seen.len(), 16, "a kind of error is missing above");
    }

    #[test]
    fn classes_have_the_exit_statuses_that_guix_daemon_knows() {
        assert_eq!(ErrorKind::BuildFailed.class().exit_status(), 100);
        assert_eq!(ErrorKind::TimedOut.class().exit_status(), 101);
        assert_eq!(ErrorKind::Unavailable.class().exit_status(), 1);
    }
}
