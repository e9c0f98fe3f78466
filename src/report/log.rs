// SPDX-License-Identifier: GPL-3.0-or-later
//! A log for whoever wants to know why a build went where it did: a line for each thing that happened to it or was
//! decided about it, appended to the file that `GUIX_OFFLOAD_LOG` names, or written to the standard error if that is
//! `stderr`.
//!
//! ```text
//! 2026-11-26T21:40:00.123456Z 4242 0123…-x.drv: w1: load 0.25
//! ```
//!
//! Time (UTC), process, derivation, and what happened: each line is one, and has nothing in it that is secret. The logs
//! of builds are not in it.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use crate::ground::error::{Error, ErrorKind, IoContext, Result, line};
use crate::ground::store_path::StorePath;
use crate::report::{Aside, Event, Observer};

/// The variable that names the file.
pub const VARIABLE: &str = "GUIX_OFFLOAD_LOG";

/// The value of it that means the standard error.
const STDERR: &str = "stderr";

/// Returns whether the log is to go to the standard error of this very process.
pub fn is_to_stderr() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|name| name == STDERR)
}

/// The open log. Any thread.
pub struct Log(File);

impl Log {
    /// Opens the log, if one is asked for. A file is made with mode 0600, and a link in its place is not followed.
    pub fn open() -> Result<Option<Log>> {
        let name = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
        name.map(|name| Self::open_file(Path::new(&name))).transpose()
    }

    pub(crate) fn open_file(name: &Path) -> Result<Log> {
        let opened = if name == Path::new(STDERR) {
            std::io::stderr().as_fd().try_clone_to_owned()
        } else {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(name, flags, Mode::RUSR | Mode::WUSR).map_err(Into::into)
        };
        opened
            .map(|file| Log(file.into()))
            .io_context(ErrorKind::Configuration, || format!("opening '{}', which {VARIABLE} names", name.display()))
            .map_err(|error| error.hint(format!("unset {VARIABLE}, or name a file that can be written, or 'stderr'")))
    }

    fn write(&self, derivation: Option<&StorePath>, text: String) {
        let now = time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let derivation = derivation.map_or("-", StorePath::base_name);
        let text = line(text);
        // A log that cannot be written stops no build.
        let _ = (&self.0).write_all(format!("{now} {} {derivation}: {text}\n", std::process::id()).as_bytes());
    }
}

/// The time so long after the epoch, as ISO 8601 has it, in UTC.
fn time(since: Duration) -> String {
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // In years that begin in March, so that a leap day is the last: 400 of them have 146,097 days.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * era + year + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let (hour, minute, micros) = (second / 3600, second / 60 % 60, since.subsec_micros());
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{:02}.{micros:06}Z", second % 60)
}

/// Logs what happens to one build on its way to another observer, if there is a log.
pub struct Logged<'a> {
    inner: &'a mut dyn Observer,
    log: Option<&'a Log>,
    derivation: Option<&'a StorePath>,
}

impl<'a> Logged<'a> {
    /// Logs what `inner` is told of the build of `derivation`.
    pub fn new(inner: &'a mut dyn Observer, log: Option<&'a Log>, derivation: Option<&'a StorePath>) -> Self {
        Logged { inner, log, derivation }
    }

    /// Logs what came of something, if it failed.
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

/// What is logged of `event`, if anything is.
fn text(event: &Event) -> Option<String> {
    Some(match event {
        Event::SlotTaken { slot } => format!("takes the slot '{}'", slot.display()),
        Event::Load { machine, load } => format!("{machine}: load {load}"),
        Event::ClockBehind { machine, seconds } => format!("{machine}: its clock is {seconds} s behind"),
        Event::PassedOver { machine, reason } => format!("{machine}: passed over: {}", with_hint(reason)),
        Event::BuiltHere { .. } => "is built here, as no machine can be used".into(),
        Event::Queued { away: false } => "waits, as all machines are busy".into(),
        Event::Queued { away: true } => "waits, as no machine can be reached".into(),
        Event::Chosen { machine } => format!("{machine}: chosen"),
        Event::Sending { machine, items, bytes } => format!("{machine}: is sent {items} items, {bytes} bytes"),
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

    #[test]
    fn a_time_is_that_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(time(Duration::from_micros(1_700_000_000_000_007)), "2023-11-14T22:13:20.000007Z");
    }

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
        Log::open_file(Path::new("stderr")).unwrap();
    }
}
