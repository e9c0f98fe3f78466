// SPDX-License-Identifier: GPL-3.0-or-later
//! The guix-daemon that runs on this host, and whether it has this library offload its builds. Its environment says so,
//! as it was when it was started:
//!
//! - `GUIX` is the program that it runs for each build: `libexec/guix-offload`, or `libexec/guix-offload-guile`.
//! - `GUIX_EXTENSIONS_PATH` has a directory in which the `guix` that it runs finds our `offload.scm`.

use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::ground::error::line;
use crate::report::json::{object, or_null, string};

/// The variable that names the program that guix-daemon runs for each build.
const GUIX: &str = "GUIX";
/// The variable that names the directories of extensions of that program.
const EXTENSIONS: &str = "GUIX_EXTENSIONS_PATH";
/// What an extension of ours contains, and no other does.
const MARK: &str = "guix-offload";
/// What the kernel calls a guix-daemon: 15 bytes of the name of its file, which `wrap-program` of Guix changes.
const NAMES: [&str; 2] = ["guix-daemon", ".guix-daemon-re"];
/// Most that is read of a process's environment or arguments, or of an extension, in bytes.
const MAX_SIZE: u64 = 4 << 20;

/// A running guix-daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its process ID.
    pub process: u32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// What is known of how it offloads; `None`: its environment may not be read.
    pub way: Option<Way>,
}

/// How a guix-daemon offloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    guix: Option<String>,
    extensions: Option<String>,
    /// The option that forbids it to offload.
    forbidden: Option<String>,
}

/// Returns the guix-daemons that run as root or as `owner`, the user that guix-daemon's state belongs to, without the
/// processes that they have for each client. `proc` is `/proc`. What another user calls guix-daemon says nothing.
pub fn find(proc: &Path, owner: Option<u32>) -> Vec<Daemon> {
    let mut found: Vec<(u32, Daemon)> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let process = entry.ok()?.file_name().to_str()?.parse().ok()?;
            daemon(&proc.join(format!("{process}")), process, owner)
        })
        .collect();
    let all: Vec<u32> = found.iter().map(|(_, daemon)| daemon.process).collect();
    found.retain(|(parent, _)| !all.contains(parent));
    let mut daemons: Vec<_> = found.into_iter().map(|(_, daemon)| daemon).collect();
    daemons.sort_by_key(|daemon| daemon.process);
    daemons
}

/// Returns the process in `directory` and its parent, if it is a guix-daemon of root's or of `owner`'s.
fn daemon(directory: &Path, process: u32, owner: Option<u32>) -> Option<(u32, Daemon)> {
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let field = |name: &str| -> Option<Vec<&str>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().collect())
    };
    let numbers =
        |name: &str| -> Vec<u32> { field(name).into_iter().flatten().filter_map(|it| it.parse().ok()).collect() };
    if !matches!(field("Name")?[..], [name] if NAMES.contains(&name)) {
        return None;
    }
    // Real, effective, saved, file system: all of them, since who runs a set-user-ID program may give it any name.
    if numbers("Uid").iter().any(|user| *user != 0 && Some(*user) != owner) {
        return None;
    }
    let [user, group] = ["Uid", "Gid"].map(|name| numbers(name).get(1).copied());
    let way = words(&directory.join("environ")).map(|environment| {
        let value = |name: &str| environment.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let forbids = |word: &&String| ["--no-offload", "--no-build-hook"].contains(&word.as_str());
        Way {
            guix: value(GUIX).map(str::to_string),
            extensions: value(EXTENSIONS).map(str::to_string),
            forbidden: words(&directory.join("cmdline")).iter().flatten().find(forbids).cloned(),
        }
    });
    let daemon = Daemon { process, user: user?, group: group?, groups: numbers("Groups"), way };
    Some((numbers("PPid").first().copied()?, daemon))
}

/// Returns the words in a file of `/proc`, each of which ends with a NUL byte.
fn words(file: &Path) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(MAX_SIZE).read_to_end(&mut bytes).ok()?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

impl Way {
    /// Returns whether guix-daemon offloads through this library; `None`: a program that is not known decides that.
    pub fn uses_us(&self) -> Option<bool> {
        let program = self.guix.as_deref().and_then(|guix| Path::new(guix).file_name()?.to_str());
        if self.forbidden.is_some() {
            return Some(false);
        }
        match program {
            Some("guix-offload" | "guix-offload-guile") => Some(true),
            None | Some("guix") => Some(self.extensions.as_deref().is_some_and(|path| path.split(':').any(is_ours))),
            Some(_) => None,
        }
    }
}

/// Returns whether `directory` has our extension. Nothing is waited for, whatever is there instead.
fn is_ours(directory: &str) -> bool {
    let mut text = String::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(Path::new(directory).join("offload.scm"), flags, Mode::empty()).is_ok_and(|file| {
        let file = fs::File::from(file);
        file.metadata().is_ok_and(|metadata| metadata.is_file())
            && file.take(MAX_SIZE).read_to_string(&mut text).is_ok()
            && text.contains(MARK)
    })
}

impl Daemon {
    /// Returns whether it offloads through this library; `None`: that cannot be seen.
    pub fn uses_us(&self) -> Option<bool> {
        self.way.as_ref()?.uses_us()
    }

    /// Returns how it offloads, in a sentence.
    pub fn text(&self) -> String {
        let user = nix::unistd::User::from_uid(self.user.into()).ok().flatten();
        let user = user.map_or_else(|| self.user.to_string(), |user| user.name);
        let title = format!("guix-daemon {}, user {user},", self.process);
        let Some(way) = &self.way else {
            return format!("{title} keeps its environment to itself: run this as root");
        };
        let value = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let said: Vec<_> = [value(GUIX, &way.guix), value(EXTENSIONS, &way.extensions), way.forbidden.clone()]
            .into_iter()
            .flatten()
            .collect();
        let said = if said.is_empty() { format!("without {GUIX} and {EXTENSIONS}") } else { said.join(" ") };
        let so = match self.uses_us() {
            Some(true) => "it offloads through this library",
            Some(false) => "it does not offload through this library",
            None => "that program decides whether it offloads through this library",
        };
        line(format!("{title} runs {said}: {so}"))
    }

    /// Returns the same for programs.
    pub fn json(&self) -> String {
        let way = self.way.clone().unwrap_or_default();
        let text = |text: Option<String>| or_null(text.map(|text| string(&text)));
        object(&[
            ("process", self.process.to_string()),
            ("user", self.user.to_string()),
            ("guix", text(way.guix)),
            ("extensions", text(way.extensions)),
            ("uses", or_null(self.uses_us().map(|uses| uses.to_string()))),
            ("text", string(&self.text())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the directory of a process.
    fn process(proc: &Path, number: u32, parent: u32, name: &str, words: Option<(&str, &str)>) {
        process_of("0\t30001\t0\t0", proc, number, parent, name, words);
    }

    /// Makes the directory of a process of these `users`.
    fn process_of(users: &str, proc: &Path, number: u32, parent: u32, name: &str, words: Option<(&str, &str)>) {
        let directory = proc.join(number.to_string());
        fs::create_dir(&directory).unwrap();
        let status = format!("Name:\t{name}\nPPid:\t{parent}\nUid:\t{users}\nGid:\t7\t8\t9\t9\nGroups:\t8 33 \n");
        fs::write(directory.join("status"), status).unwrap();
        if let Some((environment, arguments)) = words {
            fs::write(directory.join("environ"), environment.replace(' ', "\0")).unwrap();
            fs::write(directory.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
        }
    }

    #[test]
    fn daemons_are_found_and_what_they_run() {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc");
        let extensions = root.path().join("extensions");
        fs::create_dir(&proc).unwrap();
        fs::create_dir(&extensions).unwrap();
        fs::write(extensions.join("offload.scm"), ";; of guix-offload").unwrap();
        let extended = format!("PATH=/bin GUIX=/g/bin/guix GUIX_EXTENSIONS_PATH=/none:{}", extensions.display());
        fs::write(proc.join("uptime"), "").unwrap();
        process(&proc, 1, 0, "init", Some(("", "init")));
        process(&proc, 20, 1, "guix-daemon", Some(("GUIX=/opt/libexec/guix-offload X=1", "guix-daemon --cores=2")));
        process(&proc, 21, 20, "guix-daemon", Some(("", "guix-daemon 5")));
        process(&proc, 30, 1, "guix-daemon", Some((&extended, "guix-daemon")));
        process(&proc, 40, 1, "guix-daemon", Some(("GUIX_EXTENSIONS_PATH=/none", "guix-daemon")));
        process(&proc, 50, 1, "guix-daemon", Some(("GUIX=/usr/local/bin/wrapper", "guix-daemon")));
        process(&proc, 60, 1, "guix-daemon", Some(("GUIX=/x/guix-offload", "guix-daemon --no-offload")));
        process(&proc, 70, 1, "guix-daemon", None);
        let daemons = find(&proc, Some(30_001));
        let uses: Vec<_> = daemons.iter().map(|daemon| (daemon.process, daemon.uses_us())).collect();
        let expected =
            [(20, Some(true)), (30, Some(true)), (40, Some(false)), (50, None), (60, Some(false)), (70, None)];
        assert_eq!(uses, expected);
        assert_eq!((daemons[0].user, daemons[0].group, &daemons[0].groups[..]), (30_001, 8, &[8, 33][..]));
        let said = "guix-daemon 20, user 30001, runs GUIX=/opt/libexec/guix-offload: it offloads through this library";
        assert_eq!(daemons[0].text(), said);
        assert!(daemons[4].text().contains("GUIX=/x/guix-offload --no-offload: it does not offload"));
        assert!(daemons[5].text().ends_with("keeps its environment to itself: run this as root"));
        assert!(find(&root.path().join("missing"), Some(30_001)).is_empty());
    }

    #[test]
    fn what_another_user_runs_is_no_guix_daemon() {
        let root = tempfile::tempdir().unwrap();
        let words = Some(("GUIX=/x/guix-offload", "guix-daemon"));
        let users = ["0\t0\t0\t0", "7\t7\t7\t7", "8\t8\t8\t8", "7\t0\t0\t0"];
        for (number, users) in (10..).zip(users) {
            process_of(users, root.path(), number, 1, "guix-daemon", words);
        }
        let found = |owner| find(root.path(), owner).iter().map(|daemon| daemon.process).collect::<Vec<_>>();
        assert_eq!((found(None), found(Some(0)), found(Some(8))), (vec![10], vec![10], vec![10, 12]));
    }

    #[test]
    fn an_extension_that_is_no_file_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let (pipe, directory) = (root.path().join("pipe"), root.path().join("directory"));
        fs::create_dir_all(directory.join("offload.scm")).unwrap();
        fs::create_dir(&pipe).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, pipe.join("offload.scm"), Mode::RUSR).unwrap();
        let extensions = Some(format!("{}:{}", pipe.display(), directory.display()));
        assert_eq!(Way { extensions, ..Way::default() }.uses_us(), Some(false));
    }
}
