// SPDX-License-Identifier: GPL-3.0-or-later
//! A real OpenSSH server for tests: on 127.0.0.1, with keys and configuration of its own in a temporary directory.
//! It needs root, lets root in with the keys it was given, and is stopped and cleaned up when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running server.
pub struct Sshd {
    directory: PathBuf,
    port: u16,
    listener: Child,
}

impl Sshd {
    /// Starts a server with an Ed25519 host key, and `config` as additional lines of sshd_config.
    pub fn start(config: &[&str]) -> Sshd {
        Self::start_with_host_key(&["-t", "ed25519"], config)
    }

    /// As [`Sshd::start`], with the host key that ssh-keygen makes with `key_options`.
    pub fn start_with_host_key(key_options: &[&str], config: &[&str]) -> Sshd {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("guix-offload-sshd-{}-{number}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        // Where sshd wants it, even if it does not separate privileges.
        fs::create_dir_all("/run/sshd").unwrap();
        generate_key(&directory.join("host_key"), key_options);

        // Somebody may take the port between these two lines; sshd would then not start, and the test say so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config: String = [
            format!("Port {port}"),
            "ListenAddress 127.0.0.1".into(),
            format!("HostKey {}", directory.join("host_key").display()),
            format!("AuthorizedKeysFile {}", directory.join("authorized_keys").display()),
            format!("PidFile {}", directory.join("pid").display()),
            "PermitRootLogin prohibit-password".into(),
            "PasswordAuthentication no".into(),
            "UsePAM no".into(),
            "StrictModes no".into(),
            "MaxSessions 100".into(),
        ]
        .into_iter()
        .chain(config.iter().map(|line| line.to_string()))
        .map(|line| line + "\n")
        .collect();
        fs::write(directory.join("config"), config).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let listener = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(directory.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd of OpenSSH must be installed");

        let sshd = Sshd { directory, port, listener };
        sshd.new_user_key("user_key", &["-t", "ed25519"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not start: {}", sshd.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        sshd
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory for the test's own files, removed in the end.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The line in the host key's `.pub` file.
    pub fn host_key(&self) -> String {
        fs::read_to_string(self.directory.join("host_key.pub")).unwrap()
    }

    /// A private key that it lets in.
    pub fn user_key(&self) -> PathBuf {
        self.directory.join("user_key")
    }

    /// Another private key that it lets in, as ssh-keygen makes it with `options`.
    pub fn new_user_key(&self, name: &str, options: &[&str]) -> PathBuf {
        let path = self.directory.join(name);
        generate_key(&path, options);
        let authorized = self.directory.join("authorized_keys");
        let mut lines = fs::read_to_string(&authorized).unwrap_or_default();
        lines += &fs::read_to_string(self.directory.join(format!("{name}.pub"))).unwrap();
        fs::write(authorized, lines).unwrap();
        path
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The processes that serve one connection each.
    pub fn connections(&self) -> Vec<Pid> {
        let parent = self.listener.id().to_string();
        let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_to_string(entry.path().join("stat")).ok()?))
        });
        stats
            // PID (COMMAND) STATE PARENT ...: the command may contain spaces.
            .filter(|(_, stat)| stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&parent))
            .filter_map(|(number, _)| Pid::from_raw(number))
            .collect()
    }

    /// Sends `signal` to every process that serves a connection.
    pub fn signal_connections(&self, signal: Signal) {
        let connections = self.connections();
        assert!(!connections.is_empty(), "nobody is connected");
        for connection in connections {
            let _ = kill_process(connection, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Those of a test that failed are still there, maybe stopped.
        let connections = self.connections();
        let _ = self.listener.kill();
        let _ = self.listener.wait();
        for connection in connections {
            let _ = kill_process(connection, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Makes a key pair without a passphrase, unless `options` say otherwise.
pub fn generate_key(path: &Path, options: &[&str]) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .args(options)
        .status()
        .expect("ssh-keygen of OpenSSH must be installed");
    assert!(status.success(), "ssh-keygen {options:?}");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}
