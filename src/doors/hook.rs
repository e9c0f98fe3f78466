// SPDX-License-Identifier: GPL-3.0-or-later
//! The build hook: the line protocol that guix-daemon speaks with `guix offload` (Guix's `nix/libstore/build.cc`,
//! `tryBuildHook`).
//!
//! ```text
//! daemon: WANTS-LOCAL SYSTEM DERIVATION FEATURE,FEATURE...
//! hook:   any lines for the user, then "# accept", "# decline" or "# postpone"
//! ```
//!
//! WANTS-LOCAL is 1 if the daemon could start a build by itself. After a refusal the daemon may ask again on the same
//! stream, about another derivation. After `# accept` it sends two lines: the items that the build needs, and the
//! outputs that are missing, each item followed by a space. The hook then builds. Its exit status is the outcome: 0, or
//! the status of the error's [`crate::ground::error::Class`].
//!
//! If a hook ends without a reply, guix-daemon ends all builds of the client. So a hook that cannot decide declines a
//! build that the daemon can do itself. Any other build it accepts, so that this build alone fails.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::PollFlags;

use crate::archive::{Acl, KeyPair};
use crate::build::engine::{Accepted, Engine, Inquiry, Reply, Request, Work};
use crate::daemon::BuildOptions;
use crate::doors::parent::{Parent, Room};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::event_fd::EventFd;
use crate::ground::file_identity::FileIdentity;
use crate::ground::store_path::{StoreDir, StorePath};
use crate::ground::thread;
use crate::machine::file::{self, LoadOptions, Loaded};
use crate::machine::{BuildMachine, Requirements};
use crate::report::console::Console;
use crate::report::told;
use crate::report::{Event, Observer};

/// Longest request line of guix-daemon, in bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest list of store items that guix-daemon may send to its hook, in bytes: some half a million items.
const MAX_ITEMS: u64 = 64 << 20;

/// The settings of a hook.
#[derive(Clone, Debug)]
pub struct Options {
    /// The build machines.
    pub machines: Machines,
    /// Limits and trace of the builds.
    pub build: BuildOptions,
}

/// The machine file, or what it returned to a caller who evaluated it.
#[derive(Clone, Debug)]
pub struct Machines {
    file: PathBuf,
    /// What the file was when it was named: `evaluated` counts while it is the same.
    version: Option<FileIdentity>,
    evaluated: Option<Vec<BuildMachine>>,
}

impl Machines {
    /// Names the file that returns the machines.
    pub fn in_file(file: PathBuf) -> Self {
        Machines { version: FileIdentity::of(&file), file, evaluated: None }
    }

    /// Uses `machines` instead of reading the file, until the file changes.
    pub fn set_evaluated(&mut self, machines: Vec<BuildMachine>) {
        self.evaluated = Some(machines);
    }

    /// Loads the machines. Reads the file each time: a hook whose requests are postponed lives on, and the file may
    /// have been repaired. `state` is the directory of the offloading state (`STATE/offload`), which also caches
    /// Guile's results.
    fn load(&self, state: &Path) -> Result<Option<Loaded>> {
        match &self.evaluated {
            Some(machines) if FileIdentity::of(&self.file) == self.version => {
                Ok(Some(Loaded { machines: machines.clone(), ..Loaded::default() }))
            }
            _ => {
                let options = LoadOptions { cache: Some(state.into()), ..LoadOptions::default() };
                file::load(&self.file, &options)
            }
        }
    }
}

/// Serves guix-daemon's requests from `input` until a build is done or the daemon hangs up, and returns the status to
/// exit with. Replies, messages and errors go to `output`, the build's log to `log`.
///
/// Cancels the build once nobody reads `output`: the daemon is gone then, and with it its locks on the outputs.
pub fn serve(builder: Box<dyn Builder>, options: &Options, input: File, output: File, log: File) -> Result<u8> {
    let watched = output.try_clone().io_context(ErrorKind::Exhausted, || "duplicating a descriptor")?;
    let (cancel, done) = (Cancel::default(), Arc::new(EventFd::new()?));
    let directories = builder.directories().clone();
    let mut hook = Hook { options: options.clone(), directories, builder, cancel: cancel.clone(), built: false };
    let finished = Arc::clone(&done);
    // In a thread of ours, because those block SIGPIPE.
    let worker = thread::spawn("guix-offload", move || {
        let mut reporter = Console::new(output, log, hook.options.build.max_silent_time);
        let parent = Parent::of_this_process();
        let conversation = || hook.converse(&parent, &mut BufReader::new(input), &mut reporter);
        let result = catch_unwind(AssertUnwindSafe(conversation))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the hook panicked")));
        finished.raise();
        if let Err(error) = &result {
            reporter.error(error);
        }
        if hook.built {
            reporter.await_readers();
        }
        result.map_or_else(|error| error.class().exit_status(), |()| 0)
    })?;
    while !done.is_raised() {
        let events = done.sleep(watched.as_fd(), PollFlags::ERR, None)?;
        if events.intersects(PollFlags::ERR | PollFlags::HUP) {
            cancel.cancel();
            break;
        }
    }
    worker.join().map_err(|_| Error::new(ErrorKind::Internal, "the hook panicked"))
}

/// The part of a hook that decides about a build and does it.
pub trait Builder: Send {
    /// Returns where things are on this host.
    fn directories(&self) -> &Directories;

    /// Decides about a build, as [`Engine::ask`] does.
    fn ask(&mut self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision>;

    /// Does the build that was accepted, as [`Engine::run`] does.
    fn run(&mut self, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()>;
}

/// The reply of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No machine can ever do this build, or none can now and this host can.
    Decline,
    /// No machine can do the build now.
    Postpone,
    /// The build will be done.
    Accept,
}

/// The builder that works in the hook's own process.
pub struct InProcess {
    engine: Arc<Engine>,
    accepted: Option<Box<Accepted>>,
}

impl InProcess {
    /// Makes a builder that works with `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        InProcess { engine, accepted: None }
    }
}

impl Builder for InProcess {
    fn directories(&self) -> &Directories {
        self.engine.directories()
    }

    fn ask(&mut self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision> {
        Ok(match self.engine.ask(inquiry, cancel, observer)? {
            Reply::Decline => Decision::Decline,
            Reply::Postpone => Decision::Postpone,
            Reply::Accept(accepted) => {
                self.accepted = Some(accepted);
                Decision::Accept
            }
        })
    }

    fn run(&mut self, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        let accepted = self.accepted.take().ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was accepted"))?;
        self.engine.run(*accepted, work, cancel, observer)
    }
}

/// A hook that serves guix-daemon.
struct Hook {
    options: Options,
    directories: Directories,
    builder: Box<dyn Builder>,
    cancel: Cancel,
    /// Whether a build was accepted, so that there may be a log.
    built: bool,
}

/// A request of guix-daemon.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is to be built.
    pub request: Request,
    /// Whether the daemon could start a build by itself.
    pub wants_local: bool,
}

impl Question {
    /// Returns whether the daemon, this process's `parent`, could do this build by itself, if only after another one.
    fn could_build_here(&self, parent: &Parent) -> bool {
        builds_here(&self.request.requirements.system, native_system()) && (self.wants_local || parent.builds())
    }
}

/// Returns Guix's name for the system type of this host; empty if Guix has none.
fn native_system() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86_64-linux",
        "x86" => "i686-linux",
        "aarch64" => "aarch64-linux",
        "arm" => "armhf-linux",
        "powerpc64" => "powerpc64le-linux",
        "riscv64" => "riscv64-linux",
        _ => "",
    }
}

/// Returns whether a daemon on a host of the type `native` builds for `system`, as `canBuildLocally` in Guix's
/// `nix/libstore/build.cc` does.
fn builds_here(system: &str, native: &str) -> bool {
    system == native || matches!((system, native), ("i686-linux", "x86_64-linux") | ("armhf-linux", "aarch64-linux"))
}

impl Hook {
    fn converse(&mut self, parent: &Parent, input: &mut impl BufRead, reporter: &mut Console) -> Result<()> {
        let store = &self.directories.store.clone();
        while let Some(line) = read_request(input)? {
            let question = parse_request(&line, store);
            let could_build_here = || question.as_ref().is_ok_and(|question| question.could_build_here(parent));
            let decided = match &question {
                Ok(question) => self.decide(question, parent, &could_build_here, reporter),
                Err(error) => Err(Undecided::Failed(error.clone())),
            };
            match decided {
                Ok(Decision::Decline) => reporter.say("# decline"),
                Ok(Decision::Postpone) => reporter.say("# postpone"),
                Ok(Decision::Accept) => {
                    reporter.say("# accept");
                    let work = read_work(input, store, &self.options.build)?;
                    self.built = true;
                    return self.builder.run(work, &self.cancel, reporter);
                }
                Err(Undecided::End(error)) => return Err(error),
                Err(Undecided::Failed(error)) if error.kind() == ErrorKind::Exhausted => {
                    reporter.error(&error);
                    reporter.say("# postpone");
                }
                Err(Undecided::Failed(error)) if could_build_here() => {
                    reporter.error(&error);
                    reporter.say("guix offload: it is built here instead");
                    reporter.say("# decline");
                }
                Err(Undecided::Failed(error)) => {
                    reporter.say("# accept");
                    read_line(input, MAX_ITEMS)?;
                    read_line(input, MAX_ITEMS)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn decide(
        &mut self,
        Question { request, wants_local }: &Question,
        parent: &Parent,
        could_build_here: &dyn Fn() -> bool,
        reporter: &mut Console,
    ) -> Result<Decision, Undecided> {
        let Some(loaded) = self.options.machines.load(&self.directories.offload_state())? else {
            return Ok(Decision::Decline);
        };
        self.tell(&loaded, reporter);
        let machines = loaded.machines;
        if !Engine::has_candidates(&machines, &request.requirements) {
            // To decline a build that nobody can do would end the client's request without a reason.
            return match loaded.left_out.into_iter().next() {
                Some(error) if !could_build_here() => Err(error.context("no build machine can be used").into()),
                _ => Ok(Decision::Decline),
            };
        }
        match parent.room() {
            Room::Enough => {}
            Room::Full { scarce: true } | Room::Spent { .. } if could_build_here() => {
                reporter.event(&Event::BuiltHere { derivation: &request.derivation });
                return Ok(Decision::Decline);
            }
            Room::Full { scarce: false } if !wants_local && parent.may_ask_soon() => return Ok(Decision::Decline),
            Room::Full { .. } => return Ok(Decision::Postpone),
            Room::Spent { open, limit } => {
                let message = format!(
                    "guix-daemon has {open} of at most {limit} files open, one for each build of this request that was \
                     offloaded, and can offload no more"
                );
                let hint = "run the same command again, which goes on from here; or allow builds here, with --max-jobs";
                return Err(Undecided::End(Error::new(ErrorKind::Exhausted, message).hint(hint)));
            }
        }
        let inquiry = Inquiry { machines: &machines, request, options: &self.options.build, could_build_here };
        let answer = self.builder.ask(&inquiry, &self.cancel, reporter);
        let answer = answer.map_err(|error| match self.cancel.check() {
            Ok(()) => Undecided::Failed(error),
            Err(cancelled) => Undecided::End(cancelled),
        })?;
        if answer == Decision::Accept {
            self.check_this_host(could_build_here)?;
        }
        Ok(answer)
    }

    /// Fails if something is wrong with this host's keys. Otherwise they would fail a build that this host could do
    /// itself.
    fn check_this_host(&self, could_build_here: &dyn Fn() -> bool) -> Result<()> {
        let directories = &self.directories;
        Acl::load(&directories.acl_file())?;
        // If this host cannot do the build, it goes on without a key: perhaps nothing needs to be signed here.
        // `could_build_here` is called last, as it looks at each of the daemon's children.
        match KeyPair::load(&directories.configuration) {
            Err(error) if could_build_here() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Hook {
    /// Reports what is wrong in the machine file, and once a day what is odd in it.
    fn tell(&self, loaded: &Loaded, reporter: &mut Console) {
        let state = self.directories.offload_state();
        loaded.left_out.iter().for_each(|error| reporter.warning(error));
        for warning in loaded.warnings.iter().filter(|warning| told::is_due(&state, warning)) {
            reporter.warning(warning);
        }
    }
}

/// Why there is no reply to a request.
enum Undecided {
    /// An error that concerns this build.
    Failed(Error),
    /// An error that ends the conversation.
    End(Error),
}

impl From<Error> for Undecided {
    fn from(error: Error) -> Self {
        Undecided::Failed(error)
    }
}

/// Reads the line of the next request; `None`: there is none.
pub fn read_request(input: &mut impl BufRead) -> Result<Option<String>> {
    read_line(input, MAX_REQUEST)
}

/// Reads what the daemon sends after `# accept`.
pub fn read_work(input: &mut impl BufRead, store: &StoreDir, options: &BuildOptions) -> Result<Work> {
    let mut items = || -> Result<Vec<StorePath>> {
        let line = read_line(input, MAX_ITEMS)?
            .ok_or_else(|| Error::new(ErrorKind::Cancelled, "the daemon hung up after the request was accepted"))?;
        line.split_ascii_whitespace().map(|item| store.parse(item)).collect()
    };
    Ok(Work { inputs: items()?, outputs: items()?, options: options.clone() })
}

/// Reads a line of at most `limit` bytes, without its newline; `None` at the end of the stream.
fn read_line(input: &mut impl BufRead, limit: u64) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    input
        .take(limit)
        .read_until(b'\n', &mut bytes)
        .io_context(ErrorKind::InvalidArgument, || "reading a request of the daemon")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let invalid = |what: &str| {
        let shown: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
        Err(Error::new(ErrorKind::InvalidArgument, format!("invalid request line: {shown:?}: {what}")))
    };
    match bytes.strip_suffix(b"\n").map(std::str::from_utf8) {
        None if bytes.len() as u64 == limit => invalid("it is too long"),
        None => invalid("it has no end"),
        Some(Err(_)) => invalid("it is not UTF-8"),
        Some(Ok(line)) => Ok(Some(line.to_string())),
    }
}

/// Parses the line of a request.
pub fn parse_request(line: &str, store: &StoreDir) -> Result<Question> {
    let invalid =
        |what: &str| Error::new(ErrorKind::InvalidArgument, format!("invalid request line: {line:?}: {what}"));
    let words: Vec<&str> = line.split(' ').collect();
    let [wants_local, system, derivation, features] = words[..] else {
        return Err(invalid("expected 'WANTS-LOCAL SYSTEM DERIVATION FEATURES'"));
    };
    if !matches!(wants_local, "0" | "1") {
        return Err(invalid("WANTS-LOCAL is neither 0 nor 1"));
    }
    if system.is_empty() || !system.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    {
        return Err(invalid("SYSTEM is not a system type"));
    }
    let derivation = store.parse(derivation).map_err(|error| invalid(&error.to_string()))?;
    if !derivation.is_derivation() {
        return Err(invalid("DERIVATION is not a derivation"));
    }
    let features = features.split(',').filter(|feature| !feature.is_empty()).map(str::to_string).collect();
    let requirements = Requirements { system: system.to_string(), features };
    let request = Request { requirements, derivation, is_patient: true };
    Ok(Question { request, wants_local: wants_local == "1" })
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;
    use crate::doors::parent;
    use crate::ground::directories::tests::below;
    use crate::machine::tests::machine;

    const DRV: &str = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

    #[test]
    fn a_request_is_taken_apart() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let question = parse_request(&format!("1 x86_64-linux {DRV} kvm,big"), &store).unwrap();
        assert!(question.wants_local);
        let request = question.request;
        assert_eq!(request.requirements.system, "x86_64-linux");
        assert_eq!(request.requirements.features, ["kvm", "big"]);
        assert_eq!(request.derivation.as_str(), DRV);
        let plain = parse_request(&format!("0 i686-linux {DRV} "), &store).unwrap();
        assert!(plain.request.requirements.features.is_empty() && !plain.wants_local);
    }

    #[test]
    fn a_malformed_request_says_what_is_wrong() {
        let store = StoreDir::new("/gnu/store").unwrap();
        for (line, complaint) in [
            ("".to_string(), "expected"),
            (format!("1 x86_64-linux {DRV}"), "expected"),
            (format!("2 x86_64-linux {DRV} "), "WANTS-LOCAL"),
            (format!("1 X86 {DRV} "), "SYSTEM"),
            ("1 x86_64-linux /etc/passwd ".to_string(), "not in /gnu/store"),
            (format!("1 x86_64-linux {} ", DRV.trim_end_matches(".drv")), "not a derivation"),
        ] {
            let error = parse_request(&line, &store).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn a_host_builds_for_its_own_system_and_the_smaller_one_that_its_processor_runs() {
        assert!(builds_here("x86_64-linux", "x86_64-linux") && builds_here("i686-linux", "x86_64-linux"));
        assert!(builds_here("armhf-linux", "aarch64-linux") && !builds_here("x86_64-linux", "i686-linux"));
        assert!(!builds_here("aarch64-linux", "x86_64-linux"));
        assert!(native_system().ends_with("-linux"));
    }

    #[test]
    fn machines_that_the_caller_evaluated_count_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.scm");
        std::fs::write(&file, "(list)").unwrap();
        let mut machines = Machines::in_file(file.clone());
        let loaded = |machines: &Machines| machines.load(directory.path()).unwrap().map(|loaded| loaded.machines);
        assert_eq!(loaded(&machines), Some(vec![]));
        machines.set_evaluated(vec![machine("m")]);
        assert_eq!(loaded(&machines), Some(vec![machine("m")]));
        std::fs::write(&file, "(list) ").unwrap();
        assert_eq!(loaded(&machines), Some(vec![]));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(loaded(&machines), None);
    }

    /// A builder that must not be asked anything.
    struct Nobody(Directories);

    impl Builder for Nobody {
        fn directories(&self) -> &Directories {
            &self.0
        }

        fn ask(&mut self, _: &Inquiry, _: &Cancel, _: &mut dyn Observer) -> Result<Decision> {
            panic!("a daemon that is full is answered without a machine")
        }

        fn run(&mut self, _: Work, _: &Cancel, _: &mut dyn Observer) -> Result<()> {
            panic!("nothing was accepted")
        }
    }

    #[test]
    fn a_daemon_that_is_full_of_hooks_is_answered_so_that_it_asks_again_soon() {
        let directory = tempfile::tempdir().unwrap();
        let mut machines = Machines::in_file(directory.path().join("machines.scm"));
        let one = machine("m");
        let system = one.systems[0].clone();
        machines.set_evaluated(vec![one]);
        let directories = below(directory.path());
        let (options, cancel) = (Options { machines, build: BuildOptions::default() }, Cancel::default());
        let builder = Box::new(Nobody(directories.clone()));
        let mut hook = Hook { options, directories, builder, cancel, built: false };
        let mut replies = |parent: &Parent| {
            let mut file = tempfile::tempfile().unwrap();
            let mut console = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
            let input = format!("0 {system} {DRV} \n1 {system} {DRV} \n");
            hook.converse(parent, &mut input.as_bytes(), &mut console).unwrap();
            let mut said = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut said).unwrap();
            said
        };
        // With WANTS-LOCAL 1 the daemon would build what is declined by itself, so that is postponed.
        let full = parent::tests::full_of_hooks();
        assert_eq!(replies(&full.parent()), "# decline\n# postpone\n");
    }

    #[test]
    fn lines_are_limited_and_ended() {
        assert_eq!(read_line(&mut &b""[..], 10).unwrap(), None);
        assert_eq!(read_line(&mut &b"ab\ncd"[..], 10).unwrap().as_deref(), Some("ab"));
        for (bytes, complaint) in [(&b"ab"[..], "no end"), (b"abcdefghijk\n", "too long"), (b"\xff\n", "UTF-8")] {
            let error = read_line(&mut &bytes[..], 10).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
