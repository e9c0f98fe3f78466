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

mod builder;
mod question;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::PollFlags;

use crate::archive::{Acl, KeyPair};
use crate::build::engine::Engine;
use crate::build::request::Inquiry;
use crate::daemon::BuildOptions;
use crate::doors::parent::{Parent, Room};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::event_fd::EventFd;
use crate::ground::thread;
use crate::machine::file::{Loaded, Machines};
use crate::report::console::Console;
use crate::report::told;
use crate::report::{Event, Observer};
use question::{MAX_ITEMS, read_line};

pub use builder::{Builder, Decision, InProcess};
pub use question::{Question, parse_request, read_request, read_work};

/// The settings of a hook.
#[derive(Clone, Debug)]
pub struct Options {
    /// The build machines.
    pub machines: Machines,
    /// Limits and trace of the builds.
    pub build: BuildOptions,
}

/// Serves guix-daemon's requests from `input` until a build is done or the daemon hangs up, and returns the status to
/// exit with. Replies, messages and errors go to `output`, the build's log to `log`.
///
/// Cancels the build once nobody reads `output`: the daemon is gone then, and with it its locks on the outputs. Fails
/// with [`ErrorKind::Cancelled`] once `stop` is cancelled before a build was successful.
pub fn serve(
    builder: Box<dyn Builder>,
    options: &Options,
    input: File,
    output: File,
    log: File,
    stop: &Cancel,
) -> Result<u8> {
    let watched = output.try_clone().io_context(ErrorKind::Exhausted, || "duplicating a descriptor")?;
    let (cancel, done) = (Cancel::default(), Arc::new(EventFd::new()?));
    let directories = builder.directories().clone();
    let mut hook = Hook { options: options.clone(), directories, builder, cancel: cancel.clone(), built: false };
    let (finished, stopped) = (Arc::clone(&done), Arc::new(EventFd::new()?));
    let input = Interruptible { file: input, stopped: Arc::clone(&stopped) };
    let ends = cancel.clone();
    let _guard = stop.guard(move |_| {
        ends.cancel();
        stopped.raise();
    });
    // In a thread of ours, because those block SIGPIPE.
    let worker = thread::spawn("guix-offload", move || {
        let mut reporter = Console::new(output, log, hook.options.build.max_silent_time);
        let parent = Parent::of_this_process();
        let conversation = || hook.converse(&parent, &mut BufReader::new(input), &mut reporter);
        let result = catch_unwind(AssertUnwindSafe(conversation))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the hook panicked")));
        let result = result.or_else(|error| hook.cancel.check().and(Err(error)));
        finished.raise();
        if let Err(error) = &result {
            reporter.error(error);
        }
        if hook.built && hook.cancel.check().is_ok() {
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
    let status = worker.join().map_err(|_| Error::new(ErrorKind::Internal, "the hook panicked"))?;
    if status != 0 {
        stop.check()?;
    }
    Ok(status)
}

/// The daemon's words, which end with an error once the hook is stopped.
struct Interruptible {
    file: File,
    stopped: Arc<EventFd>,
}

impl Read for Interruptible {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Whatever ends a stream wakes poll(2), too, and a plain file is always ready.
            let ready = self.stopped.sleep(self.file.as_fd(), PollFlags::IN, None).map_err(io::Error::other)?;
            if self.stopped.is_raised() {
                return Err(io::Error::other("the hook is stopped"));
            }
            if !ready.is_empty() {
                return self.file.read(buffer);
            }
        }
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
        let Some(loaded) = self.options.machines.load(&self.directories.offload_state(), &self.cancel)? else {
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

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;
    use crate::build::request::Work;
    use crate::doors::parent;
    use crate::ground::directories::tests::below;
    use crate::machine::tests::machine;

    const DRV: &str = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

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
}
