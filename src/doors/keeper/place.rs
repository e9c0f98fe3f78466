// SPDX-License-Identifier: GPL-3.0-or-later
//! Where a hook and its keeper meet: `STATE/offload/.keeper` has a `lock`, which the keeper holds for as long as it
//! takes new builds, and a `socket`. If the keeper was seen not to answer, `unanswering` says which socket it was.
//!
//! A hook that finds no keeper makes lock and socket, and hands both to the program that it starts. So the next hook
//! can connect at once, however long the keeper takes to start.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fchmod, inotify};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};
use rustix::process::{PidfdFlags, Uid, WaitId, WaitIdOptions, geteuid, getpriority_process, pidfd_open, waitid};

use crate::choose::slot::lock::{Range, try_lock};
use crate::doors::keeper::message::Identity;
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::spawn::spawn;
use crate::ground::state_dir::{OpenStateDir, StateDir};
use crate::report::{log, phases};

/// Environment variable that can turn the keeper off: if it is `no`, each hook does its own build.
pub const VARIABLE: &str = "GUIX_OFFLOAD_KEEPER";

/// Most connections that may wait for the keeper to accept them.
pub const BACKLOG: i32 = 1024;

/// How long a hook waits while another process starts a keeper, or while a keeper is just ending.
const START: Duration = Duration::from_secs(2);

/// Pause between two attempts of a hook to connect to the keeper, or to start it.
const START_PAUSE: Duration = Duration::from_millis(1);

const SOCKET: &str = "socket";
const LOCK: &str = "lock";
const UNANSWERING: &str = "unanswering";

/// Environment variables that a hook hands on to its keeper, besides those that name directories.
const VARIABLES: [&str; 2] = [phases::VARIABLE, log::VARIABLE];

/// Returns those of [`VARIABLES`] that are set in this process, with their values.
fn variables() -> Vec<(String, OsString)> {
    VARIABLES.iter().filter_map(|name| Some((name.to_string(), std::env::var_os(name)?))).collect()
}

/// Returns the identity of this process when it works with these directories.
pub fn identity(directories: &Directories, program: &Path) -> Result<Identity> {
    let namespace = |name: &str| {
        let file = format!("/proc/self/ns/{name}");
        std::fs::read_link(&file).io_context(ErrorKind::Unavailable, || file)
    };
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION").into(),
        program: program.into(),
        directories: [
            directories.store.as_str().into(),
            directories.state.clone(),
            directories.database.clone(),
            directories.configuration.clone(),
            directories.daemon_socket.clone(),
        ],
        namespaces: [namespace("mnt")?, namespace("user")?],
        variables: variables(),
        nice: getpriority_process(None).io_context(ErrorKind::Unavailable, || "the priority of this process")?,
    })
}

/// The meeting place of one host and user.
#[derive(Clone, Debug)]
pub struct KeeperDir(StateDir);

impl KeeperDir {
    /// Returns the place for these directories.
    pub fn of(directories: &Directories) -> Self {
        KeeperDir(StateDir::named(&directories.offload_state(), ".keeper"))
    }

    /// Connects to the keeper, or starts `program` as the keeper and connects to it.
    pub fn connect_or_start(&self, program: &Path, directories: &Directories, cancel: &Cancel) -> Result<UnixStream> {
        let doing = || format!("starting the keeper in '{}'", self.0.path("").display());
        let begun = Instant::now();
        loop {
            cancel.check()?;
            match self.connect() {
                Ok(stream) => return Ok(stream),
                // A thousand hooks at once are accepted in a moment, but not by a keeper that hangs.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < START => {
                    std::thread::sleep(START_PAUSE);
                    continue;
                }
                Err(error) if !is_absence(&error) => return Err(error).io_context(ErrorKind::Unavailable, doing),
                Err(_) => {}
            }
            if self.start(program, directories).io_context(ErrorKind::Unavailable, doing)? {
                return self.connect().io_context(ErrorKind::Unavailable, || format!("{}: it ended", doing()));
            }
            if begun.elapsed() > START {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("{}: the one before it still holds the lock, and takes no new builds", doing()),
                ));
            }
            std::thread::sleep(START_PAUSE);
        }
    }

    /// Connects to the keeper, which must be this user's.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let stream = self.connect_to_any()?;
        require_own(&stream)?;
        Ok(stream)
    }

    /// Connects to the keeper in order to inspect or end it. If this process is root's, the keeper may be another
    /// user's.
    pub fn connect_to_look_after(&self) -> io::Result<UnixStream> {
        if geteuid().is_root() { self.connect_to_any() } else { self.connect() }
    }

    fn connect_to_any(&self) -> io::Result<UnixStream> {
        let directory = self.0.open()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK; // it may accept nothing any more
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(socket_in(&directory))?).map_err(|error| match error {
            Errno::AGAIN => io::Error::new(io::ErrorKind::WouldBlock, "too many connections wait for the keeper"),
            error => error.into(),
        })?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// Starts `program` as the keeper. Returns `false` if there is one, or if another process is starting one.
    fn start(&self, program: &Path, directories: &Directories) -> io::Result<bool> {
        self.0.create()?;
        let directory = self.0.open()?;
        let lock = directory.open(LOCK, OFlags::RDWR | OFlags::CREATE)?;
        if !try_lock(&lock, Range::Whole)? {
            return Ok(false);
        }
        // A keeper without the lock takes no new builds, whether it has ended or not: if it left a socket, that is
        // stale.
        let _ = directory.remove(SOCKET);
        let _ = directory.remove(UNANSWERING);
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        fchmod(&listener, Mode::RUSR | Mode::WUSR)?; // before it has a name
        bind(&listener, &SocketAddrUnix::new(socket_in(&directory))?)?;
        listen(&listener, BACKLOG)?;

        #[allow(clippy::disallowed_methods)] // ground::spawn starts it
        let mut command = Command::new(program);
        command.args(["keeper", "serve"]).env_clear();
        command.envs(variables()).envs(directories.variables());
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        let number = spawn(&command, [listener, lock.into(), null.into()])?;
        // The program forks the keeper and exits, so the keeper is no child of this process.
        let starter = rustix::process::Pid::from_raw(number).and_then(|it| pidfd_open(it, PidfdFlags::empty()).ok());
        if let Some(starter) = starter {
            let _ = waitid(WaitId::PidFd(starter.as_fd()), WaitIdOptions::EXITED); // fails if the host reaps it
        }
        Ok(true)
    }

    /// Returns a descriptor that is readable when something was removed from this place; `None`: there is none.
    pub fn watch(&self) -> Option<OwnedFd> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        let removal = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, self.0.path(""), removal | inotify::WatchFlags::DELETE_SELF).ok()?;
        Some(watch)
    }

    /// Returns what distinguishes the keeper's socket from another one of the same name; `None`: there is no socket.
    pub fn socket_identity(&self) -> Option<[i64; 3]> {
        let metadata = std::fs::symlink_metadata(self.0.path(SOCKET)).ok()?;
        // The inode number alone is not enough: the next socket may get that of a removed one.
        Some([metadata.ino() as i64, metadata.ctime(), metadata.ctime_nsec()])
    }

    /// Returns whether the present keeper was noted as one that does not answer.
    pub fn is_unanswering(&self) -> bool {
        let read = || -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            self.0.open()?.open(UNANSWERING, OFlags::RDONLY | OFlags::NONBLOCK)?.take(200).read_to_end(&mut text)?;
            Ok(text)
        };
        read().is_ok_and(|text| self.socket_identity().is_some_and(|socket| text == format!("{socket:?}").as_bytes()))
    }

    /// Notes whether the present keeper does not answer.
    pub fn note_unanswering(&self, is_so: bool) {
        let Ok(directory) = self.0.open() else { return };
        let _ = match self.socket_identity().filter(|_| is_so) {
            Some(socket) => directory.replace(UNANSWERING, format!("{socket:?}").as_bytes()),
            None => directory.remove(UNANSWERING),
        };
    }

    /// Removes the socket, so that nobody else connects.
    pub fn remove_socket(&self) {
        if let Ok(directory) = self.0.open() {
            let _ = directory.remove(SOCKET);
        }
    }
}

/// Fails unless the process at the other end belongs to this user.
pub fn require_own(stream: &impl AsFd) -> io::Result<()> {
    require(stream, |other| other == geteuid())
}

/// Fails unless the process at the other end belongs to this user or to root.
pub fn require_own_or_root(stream: &impl AsFd) -> io::Result<()> {
    require(stream, |other| other == geteuid() || other.is_root())
}

fn require(stream: &impl AsFd, is_allowed: impl Fn(Uid) -> bool) -> io::Result<()> {
    let other = sockopt::socket_peercred(stream)?.uid;
    if is_allowed(other) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {}", other.as_raw())))
}

/// Returns a name of the socket that is short, however long the directory's name is, and that follows no links.
fn socket_in(directory: &OpenStateDir) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_fd().as_raw_fd())
}

/// Returns whether `error` means that there is no keeper.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The listening socket and the lock that are handed to the keeper.
pub struct Given {
    /// The socket.
    pub listener: OwnedFd,
    /// The lock, which is held for as long as this is open.
    pub lock: OwnedFd,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::ground::store_path::StoreDir;
    use crate::store::tests::as_nobody;

    fn directories(state: &Path) -> Directories {
        Directories {
            store: StoreDir::new("/gnu/store").unwrap(),
            database: state.join("db"),
            configuration: state.join("etc"),
            daemon_socket: state.join("socket"),
            state: state.into(),
        }
    }

    /// Makes a program that runs `script` as the keeper, and a state directory whose name is too long for a socket.
    fn scene(script: &str) -> (tempfile::TempDir, std::path::PathBuf, Directories) {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let directories = directories(&scratch.path().join("s".repeat(150)));
        (scratch, program, directories)
    }

    /// A script that records what it is given, and keeps it open for as long as the test's directory is there.
    const KEEPER: &str = "d=$(dirname $0); echo \"$@\" >$d/arguments; env >$d/variables; ls /proc/self/fd >$d/files; \
                          exec 3<&0; (while [ -d $d ]; do sleep 0.05; done) <&3 & exit 0";

    #[test]
    fn the_first_hook_starts_the_keeper_and_others_find_it() {
        let (scratch, program, directories) = scene(KEEPER);
        let place = KeeperDir::of(&directories);
        assert_eq!(place.connect().unwrap_err().kind(), io::ErrorKind::NotFound);
        place.connect_or_start(&program, &directories, &Cancel::default()).unwrap();
        let socket = place.socket_identity().unwrap();
        place.connect_or_start(Path::new("/nonexistent"), &directories, &Cancel::default()).unwrap();
        assert_eq!(place.socket_identity(), Some(socket), "nobody started another one");

        let metadata = fs::symlink_metadata(place.0.path(SOCKET)).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        let read = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap();
        assert_eq!(read("arguments"), "keeper serve\n");
        let variables = read("variables");
        let expected = format!("GUIX_STATE_DIRECTORY={}\n", directories.state.display());
        assert!(variables.contains(&expected) && !variables.contains("CARGO"), "{variables}");
        // Besides the standard ones, that of `ls`, and that of the script.
        assert!(read("files").lines().count() <= 5, "{}", read("files"));
    }

    #[test]
    fn a_keeper_that_died_is_replaced_and_one_that_lives_is_not() {
        let (_scratch, program, directories) = scene("exit 0");
        let place = KeeperDir::of(&directories);
        // The keeper ends at once, and its socket and lock with it.
        let error = place.connect_or_start(&program, &directories, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("it ended"), "{error}");
        let first = place.socket_identity().unwrap();
        assert_eq!(place.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(place.start(&program, &directories).unwrap());
        assert_ne!(place.socket_identity(), Some(first));
        // A keeper that holds the lock and does not listen is about to end.
        let lock = place.0.open().unwrap().open(LOCK, OFlags::RDWR).unwrap();
        assert!(try_lock(&lock, Range::Whole).unwrap());
        place.remove_socket();
        let error = place.connect_or_start(&program, &directories, &Cancel::default()).unwrap_err();
        assert_eq!((error.kind(), place.socket_identity()), (ErrorKind::Unavailable, None), "{error}");
    }

    #[test]
    fn a_program_that_cannot_be_started_leaves_no_lock() {
        let (_scratch, program, directories) = scene(KEEPER);
        let place = KeeperDir::of(&directories);
        let error = place.connect_or_start(Path::new("/nonexistent"), &directories, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("starting the keeper"), "{error}");
        place.connect_or_start(&program, &directories, &Cancel::default()).unwrap();
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (scratch, program, directories) = scene(KEEPER);
        fs::create_dir_all(directories.state.join("offload")).unwrap();
        fs::create_dir(scratch.path().join("elsewhere")).unwrap();
        symlink(scratch.path().join("elsewhere"), directories.state.join("offload/.keeper")).unwrap();
        let error =
            KeeperDir::of(&directories).connect_or_start(&program, &directories, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("links are not followed"), "{error}");
        assert_eq!(fs::read_dir(scratch.path().join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn another_users_socket_is_no_keeper_needs_root() {
        let scratch = tempfile::tempdir().unwrap();
        let place = KeeperDir::of(&directories(scratch.path()));
        place.0.create().unwrap();
        for directory in [scratch.path().to_path_buf(), scratch.path().join("offload"), place.0.path("")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let _listener = as_nobody(|| UnixListener::bind(place.0.path(SOCKET)).unwrap());
        let error = place.connect().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("belongs to user 65534"), "{error}");
    }
}
