// SPDX-License-Identifier: GPL-3.0-or-later
//! A log that tells why a build went where it did: a line for each event of the build and for each decision about it.
//! The lines are appended to the file that `GUIX_OFFLOAD_LOG` names, or written to standard error if that is `stderr`
//! or `debug`.
//!
//! ```text
//! 2026-11-26T21:40:00.123456Z 4242 0123…-x.drv: w1: load 0.25
//! ```
//!
//! A line has the time (UTC), the process, the derivation, and what happened. Each entry is one line, and has nothing
//! in it that is secret. The logs of builds are not in it.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use crate::ground::error::{Error, ErrorKind, IoContext, Result, line};
use crate::ground::store_path::StorePath;
use crate::report::{Aside, Event, Observer};

/// Environment variable that names the log file.
pub const VARIABLE: &str = "GUIX_OFFLOAD_LOG";

/// Values of [`VARIABLE`] that mean standard error: the place, and the level at which other programs log as much.
const STDERR: [&str; 2] = ["stderr", "debug"];

/// Returns whether the log is to go to the standard error of this process.
pub fn is_to_stderr() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|name| is_stderr(Path::new(&name)))
}

fn is_stderr(name: &Path) -> bool {
    STDERR.iter().any(|value| name == Path::new(value))
}

/// A function that is called with a derivation and a line about it, in any thread: see [`Log::to`].
pub type Listener = Arc<dyn Fn(Option<&StorePath>, &str) + Send + Sync>;

/// An open log. Any thread may use it.
pub struct Log(Sink);

/// Where a log goes.
enum Sink {
    File(File),
    Listener(Listener),
}

impl Log {
    /// Opens the log, if [`VARIABLE`] is set. Creates a file with mode 0600, and does not follow a symbolic link in its
    /// place.
    pub fn open() -> Result<Option<Log>> {
        let name = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
        name.map(|name| Self::open_file(Path::new(&name))).transpose()
    }

    pub(crate) fn open_file(name: &Path) -> Result<Log> {
        let opened = if is_stderr(name) {
            std::io::stderr().as_fd().try_clone_to_owned()
        } else {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(name, flags, Mode::RUSR | Mode::WUSR).map_err(Into::into)
        };
        opened
            .map(|file| Log(Sink::File(file.into())))
            .io_context(ErrorKind::Configuration, || format!("opening '{}', which {VARIABLE} names", name.display()))
            .map_err(|error| error.hint(format!("unset {VARIABLE}, or name a file that can be written, or 'stderr'")))
    }

    /// Makes a log that calls `listener` and writes nothing. `listener` gets one line at a time, without time and
    /// process.
    pub fn to(listener: Listener) -> Log {
        Log(Sink::Listener(listener))
    }

    /// Writes a line, about a build or about none.
    pub fn write(&self, derivation: Option<&StorePath>, text: String) {
        let text = line(text);
        match &self.0 {
            Sink::Listener(tell) => tell(derivation, &text),
            Sink::File(file) => {
                let now = humantime::format_rfc3339_micros(SystemTime::now());
                let derivation = derivation.map_or("-", StorePath::base_name);
                // A log that cannot be written stops no build.
                let mut file: &File = file;
                let _ = file.write_all(format!("{now} {} {derivation}: {text}\n", std::process::id()).as_bytes());
            }
        }
    }
}

/// An observer that logs what happens to one build, if there is a log, and passes it on to another observer.
pub struct Logged<'a> {
    inner: &'a mut dyn Observer,
    log: Option<&'a Log>,
    derivation: Option<&'a StorePath>,
}

impl<'a> Logged<'a> {
    /// Makes one that logs what it passes on to `inner` about the build of `derivation`.
    pub fn new(inner: &'a mut dyn Observer, log: Option<&'a Log>, derivation: Option<&'a StorePath>) -> Self {
        Logged { inner, log, derivation }
    }

    /// Logs `result` if it is an error.
    pub fn failed<T>(&self, result: &Result<T>) {
        if let (Some(log), Err(error)) = (self.log, result) {
            log.write(self.derivation, format!("it fails: {}", with_hint(error)));
        }
    }
}

impl Observer for Logged<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Some((log, text)) = self.log.and_then(|log| Some((log, text(event)?))) {
            log.write(self.derivation, text);
        }
        self.inner.event(event);
    }

    fn detail(&mut self, text: fmt::Arguments<'_>) {
        if let Some(log) = self.log {
            log.write(self.derivation, text.to_string());
        }
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.inner.log(text)
    }

    fn aside(&self) -> Option<Aside> {
        self.inner.aside()
    }
}

fn with_hint(error: &Error) -> String {
    let hint = error.hint_text().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    format!("{:?}: {error}{hint}", error.kind())
}

/// Returns what is logged about `event`, if anything.
fn text(event: &Event) -> Option<String> {
    Some(match event {
        Event::SlotTaken { slot } => format!("takes the slot '{}'", slot.display()),
        Event::Load { machine, load } => format!("{machine}: load {load}"),
        Event::ClockBehind { machine, seconds } => format!("{machine}: its clock is {seconds} s behind"),
        Event::PassedOver { machine, reason } => format!("{machine}: passed over: {}", with_hint(reason)),
        Event::BuiltHere { .. } => "is built here, as no machine can be used".into(),
        Event::Queued { away: false } => "waits, as all machines are busy".into(),
        Event::Queued { away: true } => "waits, as no machine can be reached".into(),
        Event::AwaitsSlot { machine } => format!("{machine}: has the inputs, and its slots are taken; waits for one"),
        Event::Chosen { machine } => format!("{machine}: chosen"),
        Event::Sending { machine, items, bytes } => format!("{machine}: is sent {items} items, {bytes} bytes"),
        Event::Fetching { machine, items, bytes } => format!("{machine}: fetches {items} of them, {bytes} bytes"),
        Event::Building { machine, .. } => format!("{machine}: builds"),
        Event::Built => "is built".into(),
        Event::Retrieving { machine, items, bytes } => {
            format!("{machine}: {items} outputs are retrieved, {bytes} bytes")
        }
        Event::Transferred { .. } => return None,
        Event::Verified { item } => format!("'{item}' is verified"),
        Event::Received => "is registered".into(),
        Event::Retrying { machine, reason } => format!("{machine}: failed, is tried again: {}", with_hint(reason)),
        Event::Done { .. } => "is done".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::ground::store_path::StoreDir;

    struct Told(usize);

    impl Observer for Told {
        fn event(&mut self, _: &Event<'_>) {
            self.0 += 1;
        }

        fn log(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_happens_is_logged_line_by_line_and_told_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("log");
        let derivation = StoreDir::new("/gnu/store").unwrap();
        let derivation = derivation.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
        let log = Log::open_file(&name).unwrap();
        let reason = Error::new(ErrorKind::HostKey, "it differs\n# accept").hint("look at it");
        for log in [Some(&log), None] {
            let mut told = Told(0);
            let mut logged = Logged::new(&mut told, log, Some(&derivation));
            logged.detail(format_args!("one\ntwo"));
            logged.event(&Event::Transferred { bytes: 1 });
            logged.event(&Event::PassedOver { machine: "w1", reason: &reason });
            logged.failed(&Err::<(), _>(reason.clone()));
            assert_eq!(told.0, 2);
        }
        let text = std::fs::read_to_string(&name).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let begin = format!("{} 0123456789abcdfghijklmnpqrsvwxyz-x.drv: ", std::process::id());
        let texts: Vec<_> = lines.iter().map(|line| line.strip_prefix(&begin).expect(line)).collect();
        let why = "HostKey: it differs # accept (hint: look at it)";
        assert_eq!(texts, ["one two", &format!("w1: passed over: {why}"), &format!("it fails: {why}")]);
        assert_eq!(std::fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_said_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink(directory.path().join("other"), &link).unwrap();
        for name in [link, directory.path().join("none/log")] {
            let error = Log::open_file(&name).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(VARIABLE) && error.hint_text().unwrap().contains("stderr"), "{error}");
        }
        STDERR.iter().for_each(|name| drop(Log::open_file(Path::new(name)).unwrap()));
    }
}
